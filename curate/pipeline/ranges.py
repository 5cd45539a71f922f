"""Ranges of a data set's positions, put together from the rows that workers give back: each row counts once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate.pipeline.meter import Work

Range = tuple[int, int]


@dataclass(frozen=True)
class Arrived:
    """Rows that came out of the workers: scored and quarantined ones, their tokens, and the work on them.

    Counts are negative where rows are forgotten, for their range is scored again; the work was done all the same.

    Attributes:
        seconds: since work on the first of all rows began.
    """

    rows: int
    tokens: int
    quarantined: int
    work: Work
    seconds: float


class Assembly:
    """Collects rows until a range is whole, then hands it over.

    Args:
        ranges: those to score.
        commit: takes a range's rows, one for every position; returns whether to go on.
        arrived: called as rows come in.

    Attributes:
        left: start and stop of the ranges that are not whole.
    """

    def __init__(
        self, ranges: Sequence[Range], commit: Callable[[Range, pa.Table], bool], arrived: Callable[[Arrived], None]
    ) -> None:
        self.left = dict(ranges)
        self._commit, self._arrived = commit, arrived
        self._unfinished: dict[int, tuple[set[int], list[pa.Table]]] = {}
        self._since: float | None = None

    def take(self, start: int, rows: pa.Table, work: Work) -> bool:
        """Take rows of the range that starts there; rows that it has already are dropped. Returns whether to go on."""
        if start not in self.left:
            return True  # whole already: these rows come for a second time
        seen, tables = self._unfinished.setdefault(start, (set(), []))
        rows = rows.filter([source_row not in seen for source_row in rows["source_row"].to_pylist()])
        seen.update(rows["source_row"].to_pylist())
        tables.append(rows)
        self._tell(rows, work)
        stop = self.left[start]
        if len(seen) < stop - start:
            return True
        del self._unfinished[start], self.left[start]
        return self._commit((start, stop), pa.concat_tables(tables, promote_options="default"))

    def forget(self) -> None:
        """Drop the rows of ranges that are not whole."""
        for _, tables in self._unfinished.values():
            for rows in tables:
                self._tell(rows, Work(), times=-1)
        self._unfinished.clear()

    def _tell(self, rows: pa.Table, work: Work, times: int = 1) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now - work.busy_seconds
        counts = [rows[name] for name in ("n_text_tokens", "n_image_tokens") if name in rows.column_names]
        tokens = sum(int(count.drop_null().to_numpy().sum()) for count in counts)
        quarantined = rows.num_rows - rows["error"].null_count if "error" in rows.column_names else 0
        seconds = now - self._since
        self._arrived(Arrived(times * rows.num_rows, times * tokens, times * quarantined, work, seconds))
