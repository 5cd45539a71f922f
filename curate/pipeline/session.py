"""One process's work on a run."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from upath import UPath

from curate.manifest.ledger import Shard
from curate.pipeline.job import Plan


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `check`, `weights` or `score`."""

    stage: str
    done: int
    total: int
    tokens: int = 0
    quarantined: int = 0


Report = Callable[[Progress], None]


@dataclass
class Session:
    """One process's work on a run, whose folder it holds.

    Attributes:
        shards: the ledger, by start; grows as ranges are committed.
        kept: how many shards were there when the session began.
        notes: what a reader of the scores should know, beside the plan's notes.
    """

    plan: Plan
    run: UPath
    shards: dict[int, Shard]
    report: Report
    notes: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    timings: dict[str, float] = field(default_factory=dict)
    kept: int = field(init=False)

    def __post_init__(self) -> None:
        self.kept = len(self.shards)

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards.values())

    @property
    def quarantined(self) -> int:
        return sum(shard.quarantined for shard in self.shards.values())

    @property
    def error_budget(self) -> float:
        return self.plan.job.max_error_rate * len(self.plan.dataset)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the seconds that a stage takes."""
        start = time.monotonic()
        yield
        self.timings[stage] = round(time.monotonic() - start, 3)
