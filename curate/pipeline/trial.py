"""A probe watched from here: what it does is told as it goes, and it is stopped at a limit."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from curate.pipeline.finding import TRIAL_SECONDS
from curate.pipeline.job import Plan
from curate.pipeline.probe import Probe, probe

_SECONDS_TO_START = 60.0
_SECONDS_BETWEEN_LOOKS = 0.5


def _nothing(doing: str) -> None:
    """Where nobody looks."""


@dataclass(frozen=True)
class Limits:
    """How a trial is watched.

    Attributes:
        seconds: the trial is stopped after this many.
        tell: called with what the trial does now.
    """

    seconds: float = TRIAL_SECONDS
    tell: Callable[[str], None] = _nothing


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        seen: the last state it reported, or None.
        stopped: whether the limit stopped it.
        error: what ended it otherwise.
    """

    seen: Probe | None
    stopped: bool = False
    error: RayTaskError | WorkerCrashedError | OutOfMemoryError | None = None


def run_trial(
    plan: Plan, positions: Sequence[int], actors_here: int, options: dict[str, Any], limits: Limits
) -> Outcome:
    """Probe in a process of its own, so that its peak of memory is the work's; for `limits.seconds` at most.

    Args:
        options: what of its node the process takes, as Ray's tasks are given it.
    """
    task: Any = ray.remote(**options, max_calls=1, max_retries=0)(probe)
    states = task.remote(plan, positions, actors_here)
    seen: Probe | None = None
    # The limit counts from the first that is told; before that, the process starts.
    until = time.monotonic() + _SECONDS_TO_START + limits.seconds
    while (left := until - time.monotonic()) > 0:
        if not ray.wait([states], timeout=min(left, _SECONDS_BETWEEN_LOOKS))[0]:
            continue
        try:
            now: Any = ray.get(next(states))
        except StopIteration:
            return Outcome(seen)
        except (RayTaskError, WorkerCrashedError, OutOfMemoryError) as error:
            return Outcome(seen, error=error)
        if seen is None:
            until = time.monotonic() + limits.seconds
        seen = now
        limits.tell(now.doing)
    ray.cancel(states, force=True)
    return Outcome(seen, stopped=True)
