"""How far a run is: what stages report."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `check` in shards, `load` in bytes, `reading`, `fit`, `weights` and `score` in samples.

    Attributes:
        seconds: that the work took so far, without the start of its workers; 0 if that is not known.
        lacks: what the stage `cluster` waits for.
    """

    stage: str
    done: int = 0
    total: int = 0
    tokens: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    lacks: str = ""


Report = Callable[[Progress], None]
