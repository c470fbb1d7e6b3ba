"""The encoder-decoder put together from layers, its loss, and its counts."""
