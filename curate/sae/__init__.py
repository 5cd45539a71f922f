"""Sparse autoencoders: the dictionary."""
