"""`curate run`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli.arguments import DryRun, only_described


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Job file.", show_default=False)],
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print the record of what was made.")] = False,
) -> None:
    """Do what a job file says, here.

    A verb's own job file is printed by --print-job; jobs/ has examples. What is done already is not done again, so
    the same command goes on where it was cut off. `curate submit FILE` does it on a cluster.
    """
    from curate.cli.console import ERR, printable
    from curate.jobs.files import read_job
    from curate.jobs.pipeline import PipelineJob

    job = read_job(file)
    if only_described(job, False, dry_run, json):
        return
    if not isinstance(job, PipelineJob):
        run_job(job, json)
        return
    if json:
        raise typer.BadParameter("a pipeline makes several records; leave out --json")
    for name in job.order():
        ERR.print("[bold]stage[/bold]", printable(name))
        run_job(job.resolved(name))


def run_job(job: Any, json: bool = False) -> None:
    """Run a job of one stage as its verb does."""
    from curate.cli import (
        calibrate,
        evaluate,
        features,
        patches,
        probe,
        retry,
        sae_evaluate,
        sae_train,
        score,
        select,
        steer,
        sweep,
        train,
    )

    runners = {"score": score, "select": select, "retry": retry, "sae-train": sae_train, "sae-evaluate": sae_evaluate}
    runners |= {"train": train, "evaluate": evaluate, "sweep": sweep, "calibrate": calibrate, "patches": patches}
    runners |= {"features": features, "probe": probe, "steer": steer}
    runners[job.kind].run_job(job, json)
