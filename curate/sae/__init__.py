"""Sparse autoencoders (SAEs)."""
