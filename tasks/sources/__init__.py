"""SeqIO sources: datasets as they are published, shards, text files."""
