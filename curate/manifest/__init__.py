"""The run on disk: write, sort, rank, verify, select."""
