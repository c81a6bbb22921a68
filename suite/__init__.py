"""The engine: runs any variant of attention in any study, and knows none by name."""

__version__ = "0.1.0"
