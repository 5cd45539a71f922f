"""A cluster's jobs, through Ray's Jobs API."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from curate.errors import ConfigurationError, DataError, first_line

_SECONDS_TO_STOP = 60


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


class Cluster:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, as http://HOST:8265; by default as Ray has it, of RAY_API_SERVER_ADDRESS, of
            RAY_ADDRESS, or this machine. The token, if the cluster wants one, comes from RAY_AUTH_TOKEN.

    Raises:
        ConfigurationError: nobody answers, or the token is not taken; so do all its methods.
        DataError: the cluster does not answer as it should; so do all its methods.
    """

    def __init__(self, address: str | None) -> None:
        if address is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = address  # which Ray takes before what it is given
        with _errors(address):
            try:
                self._client = JobSubmissionClient(address)
            except ValueError as error:
                raise ConfigurationError(f"--address {address}: {first_line(error)}; it is http://HOST:8265") from error
        self._address = address

    def start(self, name: str, command: str, kind: str, output: str, environment: Mapping[str, Any]) -> bool:
        """Run a command there under this id, unless a job has it already; returns whether none had.

        Args:
            environment: Ray's runtime environment: the files to send, and what to install.
        """
        metadata = {"curate": kind, "output": output}
        with _errors(self._address):
            try:
                self._client.submit_job(
                    entrypoint=command, submission_id=name, runtime_env=dict(environment), metadata=metadata
                )
            except RuntimeError:
                # Somebody else may have submitted the same job a moment ago.
                if not any(each.id == name for each in self.list()):
                    raise
                return False
        return True

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
