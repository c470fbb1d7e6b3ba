"""The training loop, the training step, micro-batches and signals."""
