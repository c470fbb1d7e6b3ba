"""Benchmarks of the parts of a run: its input, a Switch layer, dispatchers and precision."""
