"""What `curate retry` is asked to do."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import ConfigurationError, DataError
from curate.manifest.inputs import read_inputs
from curate.manifest.record import RunRecord, read_record
from curate.pipeline.job import ScoreJob
from curate.pipeline.resources import MOST
from curate.storage import Location, absolute, location


class RetryJob(BaseModel):
    """A run's quarantined rows, to be tried again; what is not given is as the run was begun."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["retry"] = "retry"
    run: Location = Field(description="the run folder, or its URL")
    sample_timeout: float | None = Field(
        default=None, gt=0, le=86_400, description="seconds after which a sample is given up"
    )
    actors: int | None = Field(default=None, ge=1, le=MOST, description="scoring actors, all from the beginning")
    address: str | None = Field(default=None, description="a running Ray cluster")

    def absolute(self) -> "RetryJob":
        """The job with local paths made absolute."""
        return self.model_copy(update={"run": absolute(self.run)})


def score_job(job: RetryJob) -> ScoreJob:
    """What the run was begun as, but for what is given now.

    Raises:
        ConfigurationError: there is no run.
        pydantic.ValidationError: what is given does not fit.
    """
    begun = read_inputs(location(job.run))
    if begun is None:
        raise ConfigurationError(f"{job.run} is not a run folder: there is nothing to retry")
    resources: dict[str, Any] = dict(begun.arguments["resources"])  # type: ignore[arg-type]
    if job.actors is not None or job.address is not None:
        resources["executor"] = "auto"
    if job.actors is not None:
        resources |= {"actors": job.actors, "min_actors": None, "initial_actors": None}
    if job.address is not None:
        resources["address"] = job.address
    timeout = {} if job.sample_timeout is None else {"sample_timeout": job.sample_timeout}
    return ScoreJob.model_validate({**begun.arguments, **timeout, "resources": resources, "output": job.run})


def nothing_to_retry(job: ScoreJob) -> RunRecord | None:
    """The record of a complete run without quarantined rows; None of any other run."""
    try:
        record = read_record(location(job.output))
    except DataError:
        return None  # it is not finished
    return record if record.status == "complete" and not record.counts.quarantined else None
