"""The line of image classifiers, from one matrix product to masked autoencoders, in JAX."""

__version__ = "0.1.0"
