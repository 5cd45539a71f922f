"""A probe watched from here: what it does is told as it goes, and it is stopped at a limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from curate.pipeline.finding import TRIAL_SECONDS
from curate.pipeline.probe import Probe

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
        error: what ended it otherwise; `killed` if that was its process's end.
    """

    seen: Probe | None
    stopped: bool = False
    error: Exception | None = None
    killed: bool = False


class ProbeKilled(Exception):
    """The process of a trial ended before it was done."""


def watched(next_state: Callable[[float], Probe | None], limits: Limits) -> Outcome:
    """Follow a probe that runs in a process of its own, for `limits.seconds` at most.

    Args:
        next_state: waits so many seconds at most; returns the next state, or None where it has not come; raises
            StopIteration after the last, `ProbeKilled`, or what ended the probe.
    """
    seen: Probe | None = None
    # The limit counts from the first that is told; before that, the process starts.
    until = time.monotonic() + _SECONDS_TO_START + limits.seconds
    while (left := until - time.monotonic()) > 0:
        try:
            now = next_state(min(left, _SECONDS_BETWEEN_LOOKS))
        except StopIteration:
            return Outcome(seen)
        except ProbeKilled as error:
            return Outcome(seen, error=error, killed=True)
        # Whatever it is, it is what the trial was to find out.
        except Exception as error:
            return Outcome(seen, error=error)
        if now is None:
            continue
        if seen is None:
            until = time.monotonic() + limits.seconds
        seen = now
        limits.tell(now.doing)
    return Outcome(seen, stopped=True)
