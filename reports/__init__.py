"""Records in, tables and figures out. Loads no torch and no ray; matplotlib only when a figure is drawn."""
