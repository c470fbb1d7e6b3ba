"""SeqIO tasks and mixtures as batches sharded over a mesh."""
