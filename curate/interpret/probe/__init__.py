"""Linear classifiers on pooled features."""
