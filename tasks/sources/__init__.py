"""SeqIO sources: published datasets, shards and text files."""
