"""The run on disk: write, verify, rank, select."""
