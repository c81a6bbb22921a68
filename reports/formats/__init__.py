"""The same tables in four formats; each escapes all text from data as its readers need it."""
