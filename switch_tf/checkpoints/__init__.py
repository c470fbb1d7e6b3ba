"""Checkpoints and the other contents of a MODEL_DIR."""
