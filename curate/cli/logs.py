"""`curate logs`."""

from typing import Annotated, Any

import typer

from curate.cli.arguments import Dashboard, JobId


def logs(
    job: JobId,
    address: Dashboard = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends; exit with 1 if it failed.")
    ] = False,
) -> None:
    """Print what a job has printed."""
    from curate.jobs.cluster import Cluster

    cluster = Cluster(address)
    if follow:
        print_until_the_end(cluster, job)
    else:
        print(_plain(cluster.logs(job)), end="")


def print_until_the_end(cluster: Any, job: str) -> None:
    """Print what a job prints, as it does. Ctrl-C ends the printing, not the job."""
    try:
        for text in cluster.follow(job):
            print(_plain(text), end="", flush=True)
    except KeyboardInterrupt as stop:
        raise type(stop)(f"the job goes on; curate stop {job} ends it") from None
    submission = cluster.status(job)
    if submission.state != "SUCCEEDED":
        message = submission.message.partition(", last available logs")[0]  # which were printed above
        why = f": {_plain(message.splitlines()[0])}" if message else ""
        typer.echo(f"{job} is {submission.state}{why}", err=True)
        raise typer.Exit(1)


def _plain(text: str) -> str:
    """Without control characters, which a job may print from hostile data."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
