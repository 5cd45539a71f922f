"""Rows of a run by their ranks by any metric that it computed, and what a cut leaves on either side."""

from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from upath import UPath

from curate.errors import DataError
from curate.manifest.order import best_first, rows_at
from curate.manifest.rank import rank_order
from curate.manifest.record import MANIFEST, RunRecord
from curate.manifest.verify import read_tables


class LabelShare(NamedTuple):
    """How many samples of a label there are, and how many of these are kept; None is the label of those without."""

    label: str | None
    kept: int
    samples: int


class Listing(NamedTuple):
    """The rows of a run, best first by a metric.

    Attributes:
        order: where in the manifest they lie.
        scores: what they score, finite.
    """

    run: UPath
    metric: str
    order: Int[np.ndarray, " rows"]
    scores: Float[np.ndarray, " rows"]

    def rows(self, ranks: Collection[int]) -> list[dict[str, Any]]:
        """The manifest's rows at ranks, best first; `rank` and `score` are by this metric, which `by` names."""
        wanted = sorted(ranks)
        places = self.order[np.array(wanted, np.int64) - 1].tolist()
        found = zip(rows_at(self.run, places), wanted, strict=True)
        return [ranked(row, self.metric, rank) for row, rank in found]

    def labels(self, keep: int) -> list[LabelShare]:
        """Of each label, how many of the best `keep` rows have it; the most frequent first, none if there are none."""
        is_kept = np.zeros(len(self.order), bool)
        is_kept[self.order[:keep]] = True
        samples, kept, start = Counter[str | None](), Counter[str | None](), 0
        for table in read_tables(self.run, MANIFEST, ["quality"]):
            mask = pa.array(is_kept[start : start + table.num_rows])
            _count(samples, table["quality"])
            _count(kept, table["quality"].filter(mask))
            start += table.num_rows
        if set(samples) <= {None}:
            return []
        return [LabelShare(label, kept[label], count) for label, count in samples.most_common()]


def ranked(row: dict[str, Any], metric: str, rank: int) -> dict[str, Any]:
    """A row of the manifest with `rank` and `score` by a metric, which `by` names."""
    return {"rank": rank, "score": row[metric], "by": metric, **{k: row[k] for k in row if k not in ("rank", "score")}}


def list_run(run: UPath, record: RunRecord, metric: str) -> Listing:
    """Order a run's rows by a metric that it computed. Holds 16 bytes a row, and what `best_first` does meanwhile.

    Raises:
        DataError: the manifest cannot be read, or holds scores that are no numbers.
    """
    columns = (table[metric].combine_chunks() for table in read_tables(run, MANIFEST, [metric]))
    # Nor does this need pandas, as to_numpy would; of nulls there are none in a whole manifest.
    scores = np.concatenate([np.empty(0), *(np.from_dlpack(column.drop_null()) for column in columns)])
    order = best_first(run, record, metric)
    if len(scores) != len(order) or not np.isfinite(scores).all():
        raise DataError(f"{run / MANIFEST} holds scores by {metric} that are no numbers; see curate verify")
    return Listing(run, metric, order, scores[order])


def ranks(run: UPath, record: RunRecord, row: dict[str, Any]) -> dict[str, int]:
    """The ranks of a row of the manifest, by each metric that the run computed."""
    before = Counter[str]()
    for table in read_tables(run, MANIFEST, [*record.metrics, "sample_id", "source_row"]):
        for metric in record.metrics:
            before[metric] += _before(table, metric, row)
    return {metric: before[metric] + 1 for metric in record.metrics}


def _before(table: pa.Table, metric: str, row: dict[str, Any]) -> int:
    """How many rows of the table come before the row in the order of a metric."""
    better = int((table[metric].to_numpy() > row[metric]).sum())
    tied = table.filter(pc.equal(table[metric], row[metric]))  # type: ignore[attr-defined]
    keys = [name for name, _ in rank_order(metric)[1:]]
    own = tuple(row[key] for key in keys)
    # A metric that counts has many rows tied; those with an id that sorts later need not be told apart.
    near = tied.filter(pc.less_equal(tied["sample_id"], row["sample_id"]))  # type: ignore[attr-defined]
    return better + sum(key < own for key in zip(*(near[key].to_pylist() for key in keys), strict=True))


def _count(counter: Counter[str | None], labels: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(labels).to_pylist():  # type: ignore[attr-defined]
        counter[entry["values"]] += entry["counts"]
