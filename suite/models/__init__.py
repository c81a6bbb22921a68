"""Models, each in one file, whose attention and depth come from a variant."""
