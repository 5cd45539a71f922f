"""One process's work on a run."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from upath import UPath

from curate.manifest.ledger import Shard
from curate.manifest.record import SAERecord, Throughput
from curate.pipeline.plan import Plan
from curate.pipeline.progress import Report

SAME_COMMAND = "the same command"  # goes on with a run that is a part of other work


@contextlib.contextmanager
def resumable(go_on: str) -> Iterator[None]:
    """Let a signal's message, where it has none yet, say by which command to go on."""
    try:
        yield
    except KeyboardInterrupt as signal:
        if str(signal):
            raise
        raise type(signal)(f"interrupted; go on with: {go_on}") from None


@dataclass
class Session:
    """One process's work on a run, whose folder it holds.

    Attributes:
        shards: the ledger, by start; grows as ranges are committed.
        error_budget: how many rows may be quarantined before the run stops.
        go_on: the command that goes on where this session is cut off.
        device: what computes, by name where one is known.
        notes: what a reader of the scores should know, beside the plan's notes.
        written: starts of the shards that this session committed.
        sae: how the SAE is read, and how well it fits; None before that was measured.
        rows: of all shards; quarantined: those of them that could not be scored.
    """

    plan: Plan
    run: UPath
    shards: dict[int, Shard]
    report: Report
    error_budget: float
    go_on: str
    notes: list[str] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    timings: dict[str, float] = field(default_factory=dict)
    throughput: dict[str, Throughput] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)
    sae: SAERecord | None = None
    device: str = field(init=False)
    rows: int = field(init=False)
    quarantined: int = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.plan.device
        self.rows = sum(shard.rows for shard in self.shards.values())
        self.quarantined = sum(shard.quarantined for shard in self.shards.values())

    def use(self, sae: SAERecord) -> None:
        """Read the SAE as the record says."""
        self.sae = sae
        self.plan = self.plan.read_with(sae.scale)

    def put(self, shard: Shard) -> None:
        """Enter a shard that was committed, in place of the range's earlier one if there is one."""
        before = self.shards.get(shard.start)
        self.rows += shard.rows - (before.rows if before else 0)
        self.quarantined += shard.quarantined - (before.quarantined if before else 0)
        self.shards[shard.start] = shard
        self.written.add(shard.start)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Record the seconds that a stage takes."""
        start = time.monotonic()
        yield
        self.timings[stage] = round(time.monotonic() - start, 3)
