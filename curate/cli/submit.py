"""`curate submit`."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli.arguments import Dashboard


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Job file.", show_default=False)],
    address: Dashboard = None,
    installed: Annotated[
        bool,
        typer.Option("--installed", help="The nodes have curate and what it needs, as from an image: send neither."),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Run again what succeeded already.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what it prints until it ends; exit with 1 if it failed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look there for what would go wrong with it, as curate doctor does here.")
    ] = False,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="What one GPU costs an hour, for the estimate of --dry-run.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Do what a job file says on a Ray cluster.

    Submitting the same job twice does not run it twice: its id comes from its content. One that was stopped or failed
    goes on where it was. Paths are taken as on this machine, and must lie on storage that the cluster's nodes see.
    """
    from curate.cli.console import OUT, printable
    from curate.cli.jobs import print_submissions
    from curate.cli.logs import print_until_the_end
    from curate.jobs.cluster import Cluster
    from curate.jobs.submit import examine
    from curate.jobs.submit import submit as give

    if dry_run and (again or json):
        raise typer.BadParameter("--dry-run goes with neither --again nor --json")
    if price_per_gpu_hour is not None and not dry_run:
        raise typer.BadParameter("--price-per-gpu-hour goes with --dry-run")
    if dry_run:
        name = examine(file, address, installed, price_per_gpu_hour)
        print_until_the_end(Cluster(address), name)
        return
    submission, new = give(file, address, installed, again)
    if json:
        print_submissions([submission], json=True)
    else:
        OUT.print(printable(f"{submission.id} was submitted{'' if new else f' before, and is {submission.state}'}"))
        if not new and submission.done:
            OUT.print("it is done; --again runs it again")
        elif not follow:
            OUT.print(printable(f"follow it with: curate logs -f {submission.id}"))
    if follow:
        print_until_the_end(Cluster(address), submission.id)
