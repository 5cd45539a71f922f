"""What workers measure of their own work: for Prometheus as it happens, for `run.json` in sum."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from curate.manifest.record import Throughput
from curate.scoring.memory import batch_tokens
from curate.scoring.prepare import Prepared

# Ray exports them on every node, with `ray_` before the name and `_total` after it, by stage: weights or score.
COUNTERS = {
    "prepared_batches": "batches that CPU workers prepared; less curate_batches, those in the queue before the actors",
    "batches": "batches that actors took up",
    "samples": "samples that actors ran",
    "tokens": "tokens that actors ran",
    "shared_tokens": "tokens of texts that were not run again, for another text of the batch begins with them",
    "quarantined": "samples that could not be scored",
    "busy_seconds": "seconds in which an actor computed",
    "idle_seconds": "seconds in which an actor waited for its next batch",
    "queued_seconds": "seconds between the end of batches' preparation and their actors' taking them up",
}


@dataclass(frozen=True)
class Work:
    """Work of actors, in sum; each field is exported as the counter of its name."""

    batches: float = 0
    samples: float = 0
    tokens: float = 0
    shared_tokens: float = 0
    busy_seconds: float = 0
    idle_seconds: float = 0
    queued_seconds: float = 0

    @property
    def seconds(self) -> float:
        """Between a worker's being ready and the end of its last batch; of several workers in sum."""
        return self.busy_seconds + self.idle_seconds

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def throughput(work: Work, seconds: float, quarantined: int) -> Throughput:
    """A stage's figures for `run.json`.

    Args:
        seconds: that the work took; the start of the workers is not counted.
    """
    of_texts = work.tokens + work.shared_tokens
    return Throughput(
        samples=int(work.samples),
        tokens=int(work.tokens),
        quarantined=quarantined,
        samples_per_second=round(work.samples / seconds, 3) if seconds else 0.0,
        tokens_per_second=round(work.tokens / seconds, 1) if seconds else 0.0,
        shared_share=round(work.shared_tokens / of_texts, 4) if of_texts else 0.0,
        busy_share=round(work.busy_seconds / work.seconds, 4) if work.seconds else 0.0,
        # By Little's law: what is in a queue on average is what arrives in a second times how long it stays.
        queued_batches=round(work.queued_seconds / seconds, 2) if seconds else 0.0,
    )


Export = Callable[[str, str, float], None]  # adds to one of `COUNTERS` of a stage


def nowhere(name: str, stage: str, amount: float) -> None:
    """Export nothing."""


class Meter:
    """One process's counters of a stage."""

    def __init__(self, stage: str, export: Export = nowhere) -> None:
        self._stage, self._export = stage, export
        self._free_since = time.monotonic()

    def count(self, name: str, amount: float = 1) -> None:
        """Add to one of `COUNTERS`."""
        if amount > 0:  # Ray refuses to add nothing
            self._export(name, self._stage, amount)

    @contextlib.contextmanager
    def batch(self, batch: Sequence[Prepared], prepared_at: float, together: bool) -> Iterator[list[Work]]:
        """Measure work on a batch, which stands in the list once the block is left.

        Args:
            prepared_at: the time of day at which a CPU worker was done with it.
            together: whether the model runs the batch at once, rather than sample by sample.
        """
        begun, done = time.monotonic(), []
        idle, queued = begun - self._free_since, max(0.0, time.time() - prepared_at)
        yield done
        self._free_since = time.monotonic()
        tokens = batch_tokens(batch) if together else sum(map(len, batch))
        shared = sum(len(text.input_ids) for sample in batch for text in sample.texts) - tokens
        work = Work(1, len(batch), tokens, shared, self._free_since - begun, idle, queued)
        for field in fields(work):
            self.count(field.name, getattr(work, field.name))
        done.append(work)
