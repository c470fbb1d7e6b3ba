"""SentencePiece vocabularies: locating, loading and training them."""
