"""`python -m curate`, where the command is not on the path, as in a job's environment on a cluster."""

from curate.cli.main import main

main()
