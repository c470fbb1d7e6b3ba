"""Optimizers and the learning rates that they follow."""
