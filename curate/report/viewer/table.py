"""The manifest as a table that is looked at, a page at a time: what is shown, in which order, and what a rule keeps.

DuckDB reads columns of the parquet file where a page needs them. In memory there are, for each column that was sorted
or drawn so far, four bytes and one byte a row; rows are named by their rank, which is their place in the file.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from curate.errors import ConfigurationError, DataError, first_line
from curate.manifest.annotations import Annotation
from curate.manifest.rank import rank_order
from curate.manifest.rule import share_of
from curate.report.viewer.look import Filters, Look

BINS = 60
# Of a histogram's range; what lies beyond is in its first and last bin. One sample far off would flatten all others.
_TAILS = (0.001, 0.999)
_MOST_LABELS = 50
_MEMORY = "384MB"
Ranks = Int32[np.ndarray, " shown"]


class Bin(NamedTuple):
    """A bar of a histogram: how many rows of its scores are kept, and how many are not."""

    kept: int
    dropped: int


class LabelCount(NamedTuple):
    """A label of the data; None for rows without."""

    label: str | None
    rows: int
    kept: int


class Answer(NamedTuple):
    """What a rule keeps, and of what is shown.

    Attributes:
        by_rule: rows that the rule keeps, of all; kept: after people's decisions.
        lowest: the lowest score that the rule keeps; None if it keeps none.
        shown, shown_kept: rows that the filters let through, and those of them that are kept.
        bins, labels: of the rows that are shown.
        range: where the histogram begins and ends.
    """

    scored: int
    by_rule: int
    kept: int
    lowest: float | None
    shown: int
    shown_kept: int
    bins: list[Bin]
    labels: list[LabelCount]
    range: tuple[float, float]


class Table:
    """The rows of one manifest.

    Args:
        file: `manifest.parquet`, on this machine.
        metrics: that the run computed; it is ranked by the first.
        scored: its rows.
    """

    def __init__(self, file: Path, metrics: list[str], scored: int) -> None:
        import duckdb

        self.metrics, self.scored = metrics, scored
        self.columns = ["rank", *metrics, "n_text_tokens", "n_image_tokens", "source_row"]
        self._database = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "temp_directory": gettempdir(),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "preserve_insertion_order": False,
            }
        )
        # A folder may be named like a pattern of files.
        literal = re.sub(r"([*?\[])", r"[\1]", str(file))
        with _errors():
            self._database.read_parquet(literal).create_view("manifest")
        self._said: dict[str, Ranks] = {}
        self._times_said = 0
        self.order = lru_cache(maxsize=8)(self._order)
        self._bins = lru_cache(maxsize=8)(self._binned)
        self._passing = lru_cache(maxsize=8)(self._filtered)
        self._passed = lru_cache(maxsize=8)(self._in_order)
        by_count = "SELECT nullif(quality, '') FROM manifest GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT ?"
        labels = self._column(by_count, _MOST_LABELS)
        self.labels: list[str | None] = [] if labels == [None] else labels

    def annotate(self, annotations: Mapping[str, Annotation]) -> None:
        """Take in what people said by now."""
        found = self._ranks(annotations)
        groups: dict[str, Callable[[Annotation], bool]] = {
            "keep": lambda each: each.decision == "keep",
            "drop": lambda each: each.decision == "drop",
            "overridden": lambda each: each.decision is not None,
            "pinned": lambda each: each.pinned,
            "noted": lambda each: bool(each.note),
        }
        self._said = {
            name: np.array([rank for rank, said in found.items() if belongs(annotations[said])], np.int32)
            for name, belongs in groups.items()
        }
        self._times_said += 1

    def _ranks(self, sample_ids: Iterable[str]) -> dict[int, str]:
        wanted = list(sample_ids)
        if not wanted:
            return {}
        query = "SELECT rank, sample_id FROM manifest WHERE sample_id IN (SELECT unnest(?))"
        return dict(self._fetched(query, (wanted,), lambda result: result.fetchall()))

    def answer(self, look: Look) -> Answer:
        """Count and draw what a look's rule keeps."""
        kept = self.kept(look)
        passing = self._mask(look)
        codes, low, high = self._bins(look.by)
        both = np.bincount(codes[passing] + BINS * kept[passing].astype(np.uint8), minlength=2 * BINS)
        dropped, stay = both[:BINS].tolist(), both[BINS:].tolist()
        by_rule = self.keep(look)
        return Answer(
            scored=self.scored,
            by_rule=by_rule,
            kept=int(kept.sum()),
            lowest=self.score_at(look.by, by_rule) if by_rule else None,
            shown=int(passing.sum()),
            shown_kept=int((passing & kept).sum()),
            bins=[Bin(*each) for each in zip(stay, dropped, strict=True)],
            labels=self._by_label(passing, kept),
            range=(low, high),
        )

    def keep(self, look: Look) -> int:
        """How many rows the rule keeps, before anybody's decision; as `curate select` counts."""
        rule = look.rule
        if "ratio" in rule:
            return share_of(rule["ratio"], self.scored)
        (count,) = self._column(f"SELECT count(*) FROM manifest WHERE {_name(look.by)} >= ?", rule["min_score"])
        return count

    def kept(self, look: Look) -> Bool[np.ndarray, " scored"]:
        """Of each rank, whether it is kept: by the rule, then by decisions."""
        kept = np.zeros(self.scored, bool)
        kept[self.order(look.by, False)[: self.keep(look)] - 1] = True
        for decision in ("keep", "drop"):
            kept[self._said.get(decision, np.empty(0, np.int32)) - 1] = decision == "keep"
        return kept

    def rows(self, ranks: Iterable[int]) -> list[dict[str, Any]]:
        """Whole rows, in this order."""
        wanted = [int(rank) for rank in ranks]
        if not wanted:
            return []
        # Written out, the ranks let DuckDB pass over the parts of the file that hold none of them.
        query = f"SELECT * FROM manifest WHERE rank IN ({', '.join(map(str, wanted))})"
        described, found = self._fetched(query, (), lambda result: (result.description, result.fetchall()))
        named = (dict(zip((each[0] for each in described), row, strict=True)) for row in found)
        by_rank = {row["rank"]: row for row in named}
        return [by_rank[rank] for rank in wanted]

    def place(self, metric: str, rank: int) -> int:
        """A row's place by a metric, from 1."""
        return int(np.flatnonzero(self.order(metric, False) == rank)[0]) + 1

    def find(self, text: str) -> int | None:
        """The rank of the sample that is meant: by its rank, its id or the beginning of it.

        Raises:
            ConfigurationError: several ids begin so.
        """
        said = text.strip().removeprefix("#")
        if said.isdecimal() and len(said) < 10 and 1 <= int(said) <= self.scored:
            return int(said)
        if not re.fullmatch("[0-9a-f]{4,32}", said):
            return None
        query = "SELECT min(rank) FROM manifest WHERE starts_with(sample_id, ?) GROUP BY sample_id LIMIT 2"
        found = self._column(query, said)
        if len(found) > 1:
            raise ConfigurationError(f"{text} is the beginning of several samples' ids; give more of it")
        return found[0] if found else None

    def shown(self, look: Look) -> Ranks:
        """The ranks that a look's filters let through, in its order: those of all its pages."""
        return self._passed(look.model_copy(update={"page": 1, "view": "gallery"}), self._times_said)

    def _in_order(self, look: Look, times_said: int) -> Ranks:
        order = self.order(look.sort or look.by, look.ascending)
        return order[self._mask(look)[order - 1]]

    def _mask(self, look: Look) -> Bool[np.ndarray, " scored"]:
        filters = look.filters
        passing = self._passing(filters.model_copy(update={"side": "all", "said": "anything"}))
        if filters.side != "all":
            passing = passing & (self.kept(look) == (filters.side == "kept"))
        if filters.said != "anything":
            said = np.zeros(self.scored, bool)
            said[self._said.get(filters.said, np.empty(0, np.int32)) - 1] = True
            passing = passing & said
        return passing

    def _filtered(self, filters: Filters) -> Bool[np.ndarray, " scored"]:
        conditions, values = [], []
        for column, least, most in filters.ranges:
            for sign, bound in ((">=", least), ("<=", most)):
                if bound is not None:
                    conditions.append(f"{_name(column)} {sign} ?")
                    values.append(bound)
        if filters.labels or filters.unlabelled:
            conditions.append("(quality IN (SELECT unnest(?)) OR (? AND coalesce(quality, '') = ''))")
            values += [list(filters.labels), filters.unlabelled]
        if not conditions:
            return np.ones(self.scored, bool)
        passing = np.zeros(self.scored, bool)
        passing[self._numbers(f"SELECT rank FROM manifest WHERE {' AND '.join(conditions)}", *values) - 1] = True
        return passing

    def _order(self, column: str, ascending: bool) -> Ranks:
        if (column, ascending) in ((self.metrics[0], False), ("rank", True)):  # as the file is
            return np.arange(1, self.scored + 1, dtype=np.int32)
        directions = {"descending": "DESC", "ascending": "ASC"}
        own, *ties = rank_order(column)
        keys = [(own[0], "ascending" if ascending else own[1]), *ties]
        by = ", ".join(f"{_name(name)} {directions[way]}" for name, way in keys)
        return self._numbers(f"SELECT rank FROM manifest ORDER BY {by}")

    def _binned(self, metric: str) -> tuple[UInt8[np.ndarray, " scored"], float, float]:
        """Of each rank its bin, and where the bins begin and end."""
        values = self._numbers(f"SELECT {_name(metric)} FROM manifest ORDER BY rank", kind=np.float64)
        low, high = (float(each) for each in np.quantile(values, _TAILS)) if len(values) else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        # In halves, so that the largest of numbers have a difference.
        shares = np.nan_to_num((values / 2 - low / 2) / (high / 2 - low / 2))
        codes = (shares * BINS).clip(0, BINS - 1).astype(np.uint8)
        return codes, low, high

    def _by_label(self, passing: Bool[np.ndarray, " scored"], kept: Bool[np.ndarray, " scored"]) -> list[LabelCount]:
        codes, places = self._label_codes, len(self.labels) + 1
        counts, stay = (np.bincount(codes[rows], minlength=places).tolist() for rows in (passing, passing & kept))
        found = [LabelCount(label, counts[code], stay[code]) for code, label in enumerate(self.labels)]
        return found + [LabelCount("(any other)", counts[-1], stay[-1])] * bool(self.labels and counts[-1])

    @cached_property
    def _label_codes(self) -> UInt8[np.ndarray, " scored"]:
        """Of each rank the place of its label among the most common; of all others, one more."""
        codes = np.full(self.scored, len(self.labels), np.uint8)
        for code, label in enumerate(self.labels):
            ranks = self._numbers("SELECT rank FROM manifest WHERE nullif(quality, '') IS NOT DISTINCT FROM ?", label)
            codes[ranks - 1] = code
        return codes

    def score_at(self, metric: str, place: int) -> float:
        """The score of the row that has a place by a metric, from 1."""
        (row,) = self.rows(self.order(metric, False)[place - 1 : place])
        return row[metric]

    def _numbers(self, query: str, *values: Any, kind: Any = np.int32) -> Any:
        """A query's one column, as an array."""
        (found,) = self._fetched(query, values, lambda result: result.fetchnumpy()).values()
        return np.asarray(found).astype(kind, copy=False)

    def _column(self, query: str, *values: Any) -> list[Any]:
        return [row[0] for row in self._fetched(query, values, lambda result: result.fetchall())]

    def _fetched(self, query: str, values: Iterable[Any], fetch: Callable[[Any], Any]) -> Any:
        with _errors():
            return fetch(self._database.cursor().execute(query, list(values)))


@contextmanager
def _errors() -> Iterator[None]:
    """DuckDB's errors as ours."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"the manifest cannot be read: {first_line(error)}; see curate verify") from error


def _name(column: str) -> str:
    """A column's name in SQL; they are the run's own, and quoted all the same."""
    return '"' + column.replace('"', '""') + '"'
