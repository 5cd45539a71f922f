"""Jobs on a cluster, through Ray's Jobs API."""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import curate
from curate import __version__
from curate.errors import ConfigurationError, DataError, first_line
from curate.fingerprint import text_sha256
from curate.jobs.files import Job, read_job, write_job
from curate.jobs.pipeline import PipelineJob
from curate.pipeline.job import ScoreJob
from curate.pipeline.retry import RetryJob

JOB_FILE = "job.yaml"
PACKAGE = Path(curate.__file__).parent
LOCK = PACKAGE / "requirements.lock"
_SECONDS_TO_STOP = 60
_SECONDS_TO_INSTALL = 1800


@dataclass(frozen=True)
class Submission:
    """A job that a cluster was given.

    Attributes:
        state: Ray's: PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED.
        started: seconds since the epoch; None before the start.
    """

    id: str
    kind: str
    output: str
    state: str
    message: str
    started: float | None
    ended: float | None

    @property
    def done(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return JobStatus(self.state).is_terminal()


def submission_id(job: Job) -> str:
    """The id that a job's content has, in whatever order and with whatever comments its file says it."""
    content = json.dumps(job.model_dump(mode="json"), sort_keys=True)
    return f"{job.kind}-{text_sha256(__version__ + content)[:12]}"


class Cluster:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, as http://HOST:8265; by default as Ray has it, of RAY_API_SERVER_ADDRESS, of
            RAY_ADDRESS, or this machine. The token, if the cluster wants one, comes from RAY_AUTH_TOKEN.
    """

    def __init__(self, address: str | None) -> None:
        if address is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray takes before what it is given
        with _errors(address):
            self._client = JobSubmissionClient(address)
        self._address = address

    def submit(self, file: Path, installed: bool = False, again: bool = False) -> tuple[Submission, bool]:
        """Give the cluster the job of a file, unless it has it already.

        A job that runs or succeeded is left as it is; one that failed or was stopped goes on where it was.

        Args:
            installed: whether the nodes have curate and what it needs, so that neither is sent.
            again: whether also a job that succeeded is to run again.

        Returns:
            the submission, and whether it is new.

        Raises:
            ConfigurationError: the file is wrong, or the job names a cluster of its own.
            DataError: the cluster does not answer as it should.
        """
        job = _own_cluster(read_job(file).absolute())
        base = submission_id(job)
        last = self._last(base)
        if last is not None and (not last.done or (last.state == JobStatus.SUCCEEDED and not again)):
            return last, False
        return self._start(job, _next(base, last), f"run {JOB_FILE}", job.kind, installed)

    def examine(self, file: Path, installed: bool = False, price: float | None = None) -> Submission:
        """Let the cluster find what would go wrong with a job there; errors as of `submit`.

        Args:
            price: of a GPU hour.
        """
        job = _own_cluster(read_job(file).absolute())
        base = f"doctor-{submission_id(job).rpartition('-')[2]}"
        command = f"doctor {JOB_FILE}" + ("" if price is None else f" --price-per-gpu-hour {price}")
        return self._start(job, _next(base, self._last(base)), command, "doctor", installed)[0]

    def _last(self, base: str) -> Submission | None:
        """The latest attempt at a job."""
        attempts = [each for each in self.list() if each.id == base or each.id.startswith(f"{base}-")]
        return max(attempts, key=lambda each: _attempt(base, each.id), default=None)

    def _start(self, job: Job, name: str, command: str, kind: str, installed: bool) -> tuple[Submission, bool]:
        with tempfile.TemporaryDirectory() as folder, _errors(self._address):
            (Path(folder) / JOB_FILE).write_text(write_job(job), encoding="utf-8")
            environment: dict = {"working_dir": folder}
            if not installed:
                environment |= {"py_modules": [str(PACKAGE)], "pip": _lock()}
                environment |= {"config": {"setup_timeout_seconds": _SECONDS_TO_INSTALL}}
            try:
                self._client.submit_job(
                    entrypoint=f"python -m curate {command}",
                    submission_id=name,
                    runtime_env=environment,
                    metadata={"curate": kind, "output": _output(job)},
                )
            except RuntimeError:
                # Somebody else may have submitted the same job a moment ago.
                if not any(each.id == name for each in self.list()):
                    raise
                return self.status(name), False
        return self.status(name), True

    def list(self) -> list[Submission]:
        """All jobs of curate that the cluster knows, the oldest first."""
        with _errors(self._address):
            jobs = self._client.list_jobs()
        found = [_submission(job) for job in jobs if job.metadata and "curate" in job.metadata]
        return sorted(found, key=lambda each: each.started or time.time())

    def status(self, name: str) -> Submission:
        """What a job has come to.

        Raises:
            ConfigurationError: the cluster knows no such job of curate's.
        """
        for submission in self.list():
            if submission.id == name:
                return submission
        raise ConfigurationError(f"the cluster knows no job {name}; curate jobs lists those it knows")

    def logs(self, name: str) -> str:
        """What the job has printed so far."""
        self.status(name)
        with _errors(self._address):
            return self._client.get_job_logs(name)

    def follow(self, name: str) -> Iterator[str]:
        """What the job prints, as it does, until it ends."""
        self.status(name)
        with _errors(self._address), contextlib.closing(asyncio.new_event_loop()) as loop:
            lines: Any = self._client.tail_job_logs(name)
            try:
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        yield loop.run_until_complete(anext(lines))
            finally:
                loop.run_until_complete(lines.aclose())

    def stop(self, name: str) -> Submission:
        """End a job, as Ctrl-C would, and wait until it has ended."""
        if (submission := self.status(name)).done:
            return submission
        with _errors(self._address):
            self._client.stop_job(name)
        until = time.monotonic() + _SECONDS_TO_STOP
        while not (submission := self.status(name)).done and time.monotonic() < until:
            time.sleep(0.5)
        return submission


def _attempt(base: str, name: str) -> int:
    """Which attempt at its job an id stands for: score-0123 is the first, score-0123-2 the second."""
    return int(name.removeprefix(base).removeprefix("-") or 1)


def _next(base: str, last: Submission | None) -> str:
    return base if last is None else f"{base}-{_attempt(base, last.id) + 1}"


def _own_cluster(job: Job) -> Job:
    """The job, if it names no cluster."""
    stages = job.stages.values() if isinstance(job, PipelineJob) else [job]
    for stage in stages:
        address = stage.resources.address if isinstance(stage, ScoreJob) else None
        if isinstance(stage, RetryJob):
            address = stage.address
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


def _submission(job: JobDetails) -> Submission:
    metadata = job.metadata or {}
    return Submission(
        id=str(job.submission_id),
        kind=metadata["curate"],
        output=metadata.get("output", ""),
        state=str(job.status.value),
        message=job.message or "",
        started=job.start_time / 1000 if job.start_time else None,
        ended=job.end_time / 1000 if job.end_time else None,
    )


@contextlib.contextmanager
def _errors(address: str | None) -> Iterator[None]:
    """Ray's errors as ours."""
    where = address or "RAY_API_SERVER_ADDRESS, or this machine"
    try:
        yield
    except ConnectionError as error:
        raise ConfigurationError(
            f"--address {where}: no Ray dashboard answers there, as at http://HOST:8265 ({first_line(error)})"
        ) from error
    except (RuntimeError, ValueError, RayError) as error:
        if "uthentication" in str(error):
            raise ConfigurationError(
                f"--address {where}: the cluster does not take the token in RAY_AUTH_TOKEN, or wants one"
            ) from error
        # The head answers with the traceback of its own error, whose last line says what it was.
        raise DataError(f"the cluster at {where} says: {str(error).strip().splitlines()[-1]}") from error
