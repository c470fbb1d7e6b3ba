"""SeqIO tasks and mixtures as batches laid out over a mesh."""
