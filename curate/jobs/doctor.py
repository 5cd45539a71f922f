"""What would go wrong with a job of any kind."""

from collections.abc import Iterator
from dataclasses import replace

from pydantic import ValidationError

from curate.errors import ConfigurationError, first_line
from curate.jobs.files import Job
from curate.jobs.pipeline import PipelineJob, references
from curate.manifest.ledger import read_ledger
from curate.manifest.select import Choice, SelectJob, choose
from curate.pipeline.job import ScoreJob
from curate.pipeline.preflight import Finding, storage, tried
from curate.pipeline.preflight import examine as examine_score
from curate.pipeline.retry import RetryJob, score_job
from curate.storage import location


def examine(job: Job, price: float | None = None, overwrite: bool = False) -> Iterator[Finding]:
    """Try all that the job rests on, and say how long it takes.

    Args:
        price: of a GPU hour.
        overwrite: whether a run that is there is to be replaced.
    """
    match job:
        case ScoreJob():
            yield from examine_score(job, price, overwrite=overwrite)
        case SelectJob():
            yield from _select(job)
        case RetryJob():
            yield from _retry(job, price)
        case PipelineJob():
            for name in job.order():
                for finding in _stage(job, name, price):
                    yield replace(finding, check=f"{name}: {finding.check}")


def _select(job: SelectJob) -> Iterator[Finding]:
    choice = yield from tried("selection", lambda: choose(job.absolute()), _kept)
    if choice is not None:
        yield from storage(str(choice.folder), rows=0)


def _kept(choice: Choice) -> str:
    return f"would keep {choice.keep:,} of {choice.record.counts.scored:,} samples by {choice.rule}"


def _retry(job: RetryJob, price: float | None) -> Iterator[Finding]:
    def begun() -> ScoreJob:
        try:
            return score_job(job)
        except ValidationError as error:
            raise ConfigurationError(first_line(error)) from error

    def rows() -> int:
        return sum(shard.quarantined for shard in read_ledger(location(job.run)).values())

    begun_job = yield from tried("run", begun, lambda _: f"{job.run} is a run")
    if begun_job is not None:
        found = yield from tried("quarantine", rows, lambda count: f"{count:,} quarantined rows to try again")
        yield from examine_score(begun_job, price, samples=found)


def _stage(pipeline: PipelineJob, name: str, price: float | None) -> Iterator[Finding]:
    """A stage as far as it can be looked at before those whose outputs it takes have run."""
    stage = pipeline.resolved(name)
    runs = [pipeline.stages[other] for other in references(pipeline.stages[name])]
    to_come = [run for run in runs if isinstance(run, ScoreJob) and not (location(run.output) / "run.json").exists()]
    if isinstance(stage, SelectJob) and to_come:
        metrics = to_come[0].parameters.metrics
        if stage.by is not None and stage.by not in metrics:
            yield Finding("selection", "fail", f"by: {stage.by}: the run will have {', '.join(metrics)}")
        else:
            yield Finding("selection", "ok", f"by {stage.by or metrics[0]}, once {stage.run} is there")
        return
    if isinstance(stage, ScoreJob) and to_come:
        stage = stage.model_copy(update={"weights": None})  # there are none yet to look at
    yield from examine(stage, price)
