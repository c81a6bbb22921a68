"""Data sets: one form on disk, one reader per source, the tokenizer and the scores of answers."""
