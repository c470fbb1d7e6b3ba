"""Sets up a model on its mesh before the first step, and describes it."""
