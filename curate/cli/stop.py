"""`curate stop`."""

from typing import Annotated

import typer

from curate.cli.arguments import Dashboard, JobId


def stop(
    job: JobId, address: Dashboard = None, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """End a job, as Ctrl-C would: what it has done is kept, and submitting it again goes on from there."""
    from curate.cli.console import OUT, printable
    from curate.cli.jobs import print_submissions
    from curate.jobs.cluster import Cluster

    submission = Cluster(address).stop(job)
    if json:
        print_submissions([submission], json=True)
    else:
        OUT.print(printable(f"{submission.id} is {submission.state}"))
    if not submission.done:
        typer.echo(f"it has been told to end, and will; curate status {submission.id} says when", err=True)
        raise typer.Exit(1)
