"""SentencePiece vocabularies: where they lie, how they are found and trained."""
