"""Figures of a run: written, shown, watched, and set in tables."""
