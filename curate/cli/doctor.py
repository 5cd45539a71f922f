"""`curate doctor`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.pipeline.finding import TRIAL_SECONDS

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB", help="Job file; by default the demo's.", show_default=False)
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="What one GPU costs an hour, for the estimate.")
    ] = None,
    trial_seconds: Annotated[
        float, typer.Option(min=1, help="Stop the trial after so many seconds, and estimate from what it saw by then.")
    ] = TRIAL_SECONDS,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find what would go wrong with a job, and how long it takes, before it is paid for.

    Looks at the data and decodes some, at model and SAE, storage and cluster; then runs 16 samples as an actor would,
    for memory, throughput, time and cost. Each line is ok, warn or FAIL, and says what to do. Exit code 1 if any
    failed. Every verb that does work has --dry-run, which is this; `curate submit FILE --dry-run` looks where the job
    will run.
    """
    from curate.jobs.files import read_job
    from curate.pipeline.job import ScoreJob

    report(
        ScoreJob(output="runs/doctor") if job is None else read_job(job),
        price_per_gpu_hour,
        json,
        trial_seconds=trial_seconds,
    )


def report(
    job: Any,
    price: float | None = None,
    json: bool = False,
    overwrite: bool = False,
    trial_seconds: float = TRIAL_SECONDS,
) -> None:
    """Print what would go wrong with a job, as it is found. A terminal shows what is done meanwhile."""
    from dataclasses import asdict

    from curate.cli.console import ERR, OUT, print_json, printable
    from curate.jobs.doctor import examine
    from curate.pipeline.trial import Limits

    findings = []
    with ERR.status("looking") as status:
        limits = Limits(trial_seconds, lambda doing: status.update(doing or "looking"))
        for finding in examine(job, price, overwrite, limits):
            findings.append(finding)
            if not json:
                style = _STYLES[finding.state]
                word = "FAIL" if finding.state == "fail" else finding.state
                OUT.print(f"[{style}]{word:4}[/{style}]", printable(f"{finding.check}: {finding.text}"), soft_wrap=True)
    if json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)
