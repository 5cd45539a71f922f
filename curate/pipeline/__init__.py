"""Ray Data around scoring: prepare on CPU, score on actors, write the run."""
