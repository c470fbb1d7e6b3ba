"""The corpus of docstrings of installed packages, and labelled examples made from it."""
