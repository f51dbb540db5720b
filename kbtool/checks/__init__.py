"""Check a knowledge base: is it well formed, sound, complete and traceable? `run.check` runs every check."""
