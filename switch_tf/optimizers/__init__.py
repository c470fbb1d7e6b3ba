"""Adafactor and the learning rates that it follows."""
