"""The command line: one file per verb. Heavy imports are inside the verbs, so that `--help` answers at once."""
