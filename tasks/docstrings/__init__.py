"""The corpus of docstrings of the installed packages, and examples made of it."""
