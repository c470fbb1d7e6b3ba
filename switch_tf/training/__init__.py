"""The training loop, its step, micro-batches and signals."""
