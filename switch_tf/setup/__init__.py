"""What is done before the first step: a model on its mesh, and what is said of it."""
