"""One file per question, each with a function ``study() -> Study``."""
