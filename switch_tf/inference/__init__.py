"""Decoding, and scoring of given answers."""
