"""The encoder-decoder assembled from layers, its loss, and its parameter and FLOP counts."""
