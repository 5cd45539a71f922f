"""Giving a cluster the job of a file."""

import json
import tempfile
from pathlib import Path
from typing import Any

import curate
from curate import __version__
from curate.errors import ConfigurationError
from curate.fingerprint import text_sha256
from curate.jobs.cluster import Cluster, Submission
from curate.jobs.files import Job, read_job, write_job
from curate.jobs.pipeline import PipelineJob
from curate.pipeline.job import ScoreJob
from curate.pipeline.retry_job import RetryJob

JOB_FILE = "job.yaml"
PACKAGE = Path(curate.__file__).parent
LOCK = PACKAGE / "requirements.lock"
_SECONDS_TO_INSTALL = 1800


def submission_id(job: Job) -> str:
    """The id that a job's content has, in whatever order and with whatever comments its file says it."""
    content = json.dumps(job.model_dump(mode="json"), sort_keys=True)
    return f"{job.kind}-{text_sha256(__version__ + content)[:12]}"


def submit(file: Path, address: str | None, installed: bool = False, again: bool = False) -> tuple[Submission, bool]:
    """Give a cluster the job of a file, unless it has it already.

    A job that runs or succeeded is left as it is; one that failed or was stopped goes on where it was.

    Args:
        address: as of `Cluster`.
        installed: whether the nodes have curate and what it needs, so that neither is sent.
        again: whether also a job that succeeded is to run again.

    Returns:
        the submission, and whether it is new.

    Raises:
        ConfigurationError: the file is wrong, or the job names a cluster of its own; also as of `Cluster`.
        DataError: as of `Cluster`.
    """
    job = _own_cluster(read_job(file).absolute())
    cluster, base = Cluster(address), submission_id(job)
    last = _last(cluster, base)
    if last is not None and (not last.done or (last.state == "SUCCEEDED" and not again)):
        return last, False
    name = _next(base, last)
    new = _start(cluster, job, name, f"run {JOB_FILE}", job.kind, installed)
    return cluster.status(name), new


def examine(file: Path, address: str | None, installed: bool = False, price: float | None = None) -> str:
    """Let a cluster find what would go wrong with a job there; errors as of `submit`.

    Args:
        price: of a GPU hour.

    Returns:
        the id of the job that looks.
    """
    job = _own_cluster(read_job(file).absolute())
    cluster, base = Cluster(address), f"doctor-{submission_id(job).rpartition('-')[2]}"
    command = f"doctor {JOB_FILE}" + ("" if price is None else f" --price-per-gpu-hour {price}")
    name = _next(base, _last(cluster, base))
    _start(cluster, job, name, command, "doctor", installed)
    return name


def _last(cluster: Cluster, base: str) -> Submission | None:
    """The latest attempt at a job."""
    attempts = [each for each in cluster.list() if each.id == base or each.id.startswith(f"{base}-")]
    return max(attempts, key=lambda each: _attempt(base, each.id), default=None)


def _attempt(base: str, name: str) -> int:
    """Which attempt at its job an id stands for: score-0123 is the first, score-0123-2 the second."""
    return int(name.removeprefix(base).removeprefix("-") or 1)


def _next(base: str, last: Submission | None) -> str:
    return base if last is None else f"{base}-{_attempt(base, last.id) + 1}"


def _start(cluster: Cluster, job: Job, name: str, command: str, kind: str, installed: bool) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / JOB_FILE).write_text(write_job(job), encoding="utf-8")
        environment: dict[str, Any] = {"working_dir": folder}
        if not installed:
            environment |= {"py_modules": [str(PACKAGE)], "pip": _lock()}
            environment |= {"config": {"setup_timeout_seconds": _SECONDS_TO_INSTALL}}
        return cluster.start(name, f"python -m curate {command}", kind, _output(job), environment)


def _own_cluster(job: Job) -> Job:
    """The job, if it names no cluster."""
    stages = job.stages.values() if isinstance(job, PipelineJob) else [job]
    for stage in stages:
        address = stage.resources.address if isinstance(stage, ScoreJob) else getattr(stage, "address", None)
        if address is not None:
            raise ConfigurationError(f"address: {address}: a job runs on the cluster that it is given to; leave it out")
    return job


def _output(job: Job) -> str:
    if isinstance(job, PipelineJob):
        return ", ".join(str(stage.output) for stage in job.stages.values())
    return str(job.run if isinstance(job, RetryJob) else job.output)


def _lock() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in LOCK.read_text().splitlines())
    return [line for line in lines if line]
