"""`curate retry`."""

import time
from typing import Annotated, Any

import typer

from curate.cli.arguments import DryRun, PrintJob, RunFolder, only_described, option_error


def retry(
    run: RunFolder,
    sample_timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a sample is given up; by default as the run was begun.")
    ] = None,
    actors: Annotated[int | None, typer.Option(help="Scoring actors; by default as the run was begun.")] = None,
    address: Annotated[str | None, typer.Option(help="Running Ray cluster; by default as the run was begun.")] = None,
    print_job: PrintJob = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print run.json.")] = False,
) -> None:
    """Score a run's quarantined rows again, and no others, after what kept them out was mended.

    The data may have changed since only where rows are quarantined; `curate quarantine RUN` shows them.
    """
    from curate.pipeline.retry_job import RetryJob

    job = RetryJob(run=str(run), sample_timeout=sample_timeout, actors=actors, address=address)
    if not only_described(job, print_job, dry_run, json):
        run_job(job, json)


def run_job(retry_job: Any, json: bool = False) -> None:
    """Retry as the job says, and say what came out."""
    from pydantic import ValidationError

    from curate.cli.console import ERR, printable
    from curate.cli.progress import progress
    from curate.cli.score import announce_plan, start_processes, summarize
    from curate.pipeline.progress import Progress
    from curate.pipeline.retry_job import nothing_to_retry, score_job

    try:
        job = score_job(retry_job)
    except ValidationError as error:
        raise option_error(error) from error
    if (record := nothing_to_retry(job)) is not None:
        ERR.print(printable(f"no quarantined rows in {job.output}: nothing to retry"), soft_wrap=True)
        if json:
            print(record.model_dump_json(indent=2))
        return

    started = time.monotonic()
    start_processes(job.resources)
    from curate.pipeline.retry import retry as run_retry

    def announce(plan: Any, rows: int) -> None:
        announce_plan(plan)
        ERR.print(f"trying {rows:,} quarantined rows again")

    with progress() as report:
        report(Progress("start"))
        record = run_retry(job, report, announce)
    if json:
        print(record.model_dump_json(indent=2))
        return
    summarize(job.output, record, time.monotonic() - started)
