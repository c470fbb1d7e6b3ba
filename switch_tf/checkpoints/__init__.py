"""Checkpoints and all else that lies in a MODEL_DIR."""
