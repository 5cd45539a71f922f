"""`curate jobs`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from curate.cli.arguments import Dashboard


def jobs(address: Dashboard = None, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the jobs that a cluster was given, the oldest first."""
    from curate.jobs.cluster import Cluster

    print_submissions(Cluster(address).list(), json)


def print_submissions(submissions: Sequence[Any], json: bool = False) -> None:
    """As a table, or as JSON."""
    from dataclasses import asdict
    from datetime import datetime

    from rich.table import Table

    from curate.cli.console import OUT, print_json, printable

    if json:
        print_json([asdict(submission) for submission in submissions])
        return
    if not submissions:
        OUT.print("the cluster knows no job of curate's")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("id", "state", "started", "output"):
        table.add_column(column, overflow="fold")
    for each in submissions:
        started = "" if each.started is None else f"{datetime.fromtimestamp(each.started):%Y-%m-%d %H:%M}"
        table.add_row(each.id, each.state, started, printable(each.output))
    OUT.print(table)
