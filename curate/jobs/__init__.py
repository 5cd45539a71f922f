"""Job files: what `curate run` does here and `curate submit` sends to a cluster."""
