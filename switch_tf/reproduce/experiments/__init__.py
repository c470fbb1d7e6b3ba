"""The experiments, one module for each group of tables and figures; none imports TensorFlow."""
