"""`curate status`."""

from typing import Annotated

import typer

from curate.cli.arguments import Dashboard, JobId


def status(
    job: JobId, address: Dashboard = None, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Say how a job is doing: its state, its output and the last line it printed. Exit code 1 if it failed."""
    from dataclasses import asdict

    from curate.cli.console import OUT, print_json, printable
    from curate.errors import DataError
    from curate.jobs.cluster import Cluster

    cluster = Cluster(address)
    submission = cluster.status(job)
    try:
        lines = cluster.logs(job).splitlines()
    except DataError:  # its node may be gone
        lines = []
    last = next((line for line in reversed(lines) if line.strip()), "")
    if json:
        print_json({**asdict(submission), "last_line": last})
    else:
        OUT.print(printable(f"{submission.id} is {submission.state}"))
        OUT.print("output:", printable(submission.output), soft_wrap=True)
        if last:
            OUT.print("last line:", printable(last), soft_wrap=True)
        if submission.state == "FAILED" and submission.message:
            OUT.print("Ray says:", printable(submission.message.splitlines()[0]), soft_wrap=True)
    if submission.state == "FAILED":
        raise typer.Exit(1)
