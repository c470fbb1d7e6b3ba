"""Switch Transformers (Fedus, Zoph, Shazeer 2021) on TensorFlow, Keras and DTensor."""

__version__ = "0.1.0"
