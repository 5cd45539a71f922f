"""Samples that take their workers down with them: found by what dying workers had in hand, then left out."""

import contextlib
import faulthandler
import os
from collections import Counter
from collections.abc import Hashable, Iterator

import ray
from ray.actor import ActorHandle

from curate.errors import RunStopped

# A worker may die by chance, and by chance twice over one piece of work. That the same sample is in hand each time
# is no chance. The first death over a piece of work goes unseen: only replacements of dead workers tell.
STRIKES = 2
SEEN_DEATHS_BEFORE_ONE_BY_ONE = 2
# No sample is to blame where a worker dies before it has one.
SEEN_DEATHS_BEFORE_NO_LOADING = 2


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process, which Ray then replaces, if the block takes longer.

    A timer in C, since a decoder or a regular expression that hangs may never give the interpreter back.
    """
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - it must be a plain file with a descriptor
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class SuspectList:
    """What workers had in hand when they died; it outlives them as a Ray actor.

    Only replacements of dead workers ask and tell, so undisturbed work pays nothing. A key names a piece of work
    that is done again as a whole; samples are named by source row.
    """

    def __init__(self) -> None:
        self._deaths: Counter[Hashable] = Counter()
        self._strikes: Counter[tuple[Hashable, int]] = Counter()
        self._in_hand: dict[Hashable, int | None] = {}

    def take_up(self, key: Hashable) -> tuple[int, list[int]]:
        """A replacement takes up a piece of work.

        Returns:
            how many workers were seen to die over it, and the samples of it to leave out.
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


def suspect_list() -> ActorHandle:
    """A new, empty list, as an actor that lives as long as somebody holds it."""
    return ray.remote(SuspectList).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()  # type: ignore[return-value]  # Ray's stubs


class Watch:
    """A worker's side of the suspect list."""

    def __init__(self, suspects: ActorHandle | None) -> None:
        self._suspects = suspects
        self._replaces_dead = suspects is not None and ray.get_runtime_context().was_current_actor_reconstructed

    @contextlib.contextmanager
    def loading(self, option: str) -> Iterator[None]:
        """Refuse to load what this worker's predecessors, one after the other, died of; Ray would go on for ever.

        Args:
            option: what to lower where memory does not suffice.

        Raises:
            RunStopped: they did.
        """
        # A worker's replacements inherit its id.
        key = ("load", ray.get_runtime_context().get_actor_id() if self._replaces_dead else None)
        deaths, _ = self.take_up(key)
        if deaths >= SEEN_DEATHS_BEFORE_NO_LOADING:
            raise RunStopped(
                f"a worker was killed {deaths + 1} times while it loaded its model or tokenizer, as when memory does "
                f"not suffice: try fewer {option}"
            )
        yield
        self.put_down(key)

    def take_up(self, key: Hashable) -> tuple[int, list[int]]:
        """Deaths seen over this piece of work, and the samples of it to leave out."""
        return ray.get(self._suspects.take_up.remote(key)) if self._replaces_dead else (0, [])  # type: ignore[union-attr]

    def hold(self, key: Hashable, row: int) -> None:
        """Tell which sample comes next, and wait until that is known: the next moment may be the last."""
        if self._replaces_dead:
            ray.get(self._suspects.hold.remote(key, row))  # type: ignore[union-attr]

    def put_down(self, key: Hashable) -> None:
        if self._replaces_dead:
            ray.get(self._suspects.put_down.remote(key))  # type: ignore[union-attr]
