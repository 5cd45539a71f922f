"""Samples that take their workers down with them: found by what dying workers had in hand, then skipped."""

import contextlib
import faulthandler
import os
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Protocol

from curate.errors import RunStopped

# A worker may die by chance, and by chance twice over one piece of work. That the same sample is in hand each time
# is no chance. Where only replacements of dead workers tell, the first death over a piece of work goes unseen.
STRIKES = 2
SEEN_DEATHS_BEFORE_ONE_BY_ONE = 2
# No sample is to blame where a worker dies before it has one.
SEEN_DEATHS_BEFORE_NO_LOADING = 2


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process, which is then replaced, if the block takes longer.

    A timer in C, since a decoder or a regular expression that hangs may never give the interpreter back.
    """
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - it must be a plain file with a descriptor
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class Suspects(Protocol):
    """A worker's way to the list of suspects; methods as of `SuspectList`."""

    def take_up(self, key: Hashable) -> tuple[int, list[int]]: ...
    def hold(self, key: Hashable, row: int) -> None: ...
    def put_down(self, key: Hashable) -> None: ...


class SuspectList:
    """What workers had in hand when they died; it lives outside of them.

    A key names a piece of work that is done again as a whole; samples are named by source row. To tell costs a Ray
    actor much and a child of this process little, so of Ray's only replacements of dead workers tell.
    """

    def __init__(self) -> None:
        self._deaths: Counter[Hashable] = Counter()
        self._strikes: Counter[tuple[Hashable, int]] = Counter()
        self._in_hand: dict[Hashable, int | None] = {}

    def take_up(self, key: Hashable) -> tuple[int, list[int]]:
        """A replacement takes up a piece of work.

        Returns:
            how many workers were seen to die over it, and the samples of it to skip.
        """
        if key in self._in_hand:
            self._deaths[key] += 1
            if (row := self._in_hand[key]) is not None:
                self._strikes[key, row] += 1
        self._in_hand[key] = None
        return self._deaths[key], [row for (work, row), n in self._strikes.items() if work == key and n >= STRIKES]

    def hold(self, key: Hashable, row: int) -> None:
        """The worker turns to a sample."""
        self._in_hand[key] = row

    def in_hand(self, key: Hashable) -> int | None:
        """The sample that the worker turned to last and is not past."""
        return self._in_hand.get(key)

    def put_down(self, key: Hashable) -> None:
        """The worker is past what it had in hand, and may wait; deaths before were not over this."""
        self._in_hand.pop(key, None)
        self._deaths.pop(key, None)


class Watch:
    """A worker's side of the suspect list.

    Args:
        suspects: None for a worker that replaces no dead one: it neither asks nor tells.
        worker: what the worker and its predecessors are known by.
    """

    def __init__(self, suspects: Suspects | None = None, worker: Hashable = None) -> None:
        self._suspects, self._worker = suspects, worker

    @contextlib.contextmanager
    def loading(self, remedy: str) -> Iterator[None]:
        """Refuse to load what this worker's predecessors, one after the other, died of.

        Args:
            remedy: what to do where memory does not suffice.

        Raises:
            RunStopped: they did.
        """
        key = ("load", self._worker)
        deaths, _ = self.take_up(key)
        if deaths >= SEEN_DEATHS_BEFORE_NO_LOADING:
            raise RunStopped(
                "workers were killed, one after the other, while they loaded the model or tokenizer, as when memory "
                f"does not suffice: {remedy}"
            )
        yield
        self.put_down(key)

    def take_up(self, key: Hashable) -> tuple[int, list[int]]:
        """Deaths seen over this piece of work, and the samples of it to skip."""
        return (0, []) if self._suspects is None else self._suspects.take_up(key)

    def hold(self, key: Hashable, row: int) -> None:
        """Tell which sample comes next; the next moment may be the last."""
        if self._suspects is not None:
            self._suspects.hold(key, row)

    def put_down(self, key: Hashable) -> None:
        """Tell that this piece of work is done."""
        if self._suspects is not None:
            self._suspects.put_down(key)
