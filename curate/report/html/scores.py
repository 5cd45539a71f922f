"""The numbers of a manifest: its columns over rows drawn by lot, and what is counted over all of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from upath import UPath

from curate.manifest.record import MANIFEST, QUARANTINE, RunRecord
from curate.manifest.verify import read_tables

MOST_ROWS = 200_000
TOKENS = ("n_text_tokens", "n_image_tokens")


@dataclass(frozen=True)
class Spread:
    """Where a column's values lie: ends and mean of all rows, quartiles of those drawn."""

    lowest: float
    highest: float
    mean: float
    quartiles: tuple[float, ...]

    @property
    def constant(self) -> bool:
        return self.lowest == self.highest


@dataclass(frozen=True)
class OfLabel:
    """The samples of one label: counts of all rows; the quantiles of scores (5, 25, 50, 75, 95%) of those drawn."""

    label: str
    rows: int
    kept: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """What a report says of a manifest's rows.

    Attributes:
        rows: in the manifest; drawn: of these, by lot.
        columns: by name, of the drawn rows: metrics, then tokens.
        kept: of the drawn rows, which are kept.
        spreads: by name.
        labels: the most common labels, the most common first; empty where the data carry none.
        n_labels: different labels; unlabelled: rows without one.
    """

    rows: int
    drawn: int
    columns: Mapping[str, Float[np.ndarray, " drawn"]]
    kept: Bool[np.ndarray, " drawn"]
    spreads: Mapping[str, Spread]
    labels: tuple[OfLabel, ...]
    n_labels: int
    unlabelled: int

    @property
    def sampled(self) -> bool:
        return self.drawn < self.rows


def kept_rows(order: Int[np.ndarray, " rows"], keep: int) -> Bool[np.ndarray, " rows"]:
    """Of each row of the manifest, whether it is among the best."""
    kept = np.zeros(len(order), bool)
    kept[order[:keep]] = True
    return kept


def read_scores(
    run: UPath,
    record: RunRecord,
    by: str,
    kept: Bool[np.ndarray, " rows"],
    most_labels: int,
) -> Scores:
    """Read the numbers of a manifest, in memory that grows by a byte a row.

    Args:
        by: the metric whose scores are told by label.
        kept: of each row of the manifest.

    Raises:
        DataError: the manifest cannot be read.
    """
    n = len(kept)
    drawn = np.ones(n, bool)
    if n > MOST_ROWS:
        drawn[:] = False
        drawn[np.random.default_rng(0).choice(n, MOST_ROWS, replace=False)] = True
    names = [*record.metrics, *TOKENS]
    parts: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in names}
    labels: list[np.ndarray] = [np.empty(0, object)]
    lowest, highest = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    totals = dict.fromkeys(names, 0.0)
    counted, counted_kept = Counter[str | None](), Counter[str | None]()
    seen = 0
    for table in read_tables(run, MANIFEST, [*names, "quality"]):
        rows = slice(seen, seen + table.num_rows)
        seen += table.num_rows
        for name in names:
            values = table[name].to_numpy().astype(float)
            parts[name].append(values[drawn[rows]])
            lowest[name] = min(lowest[name], float(values.min()))
            highest[name] = max(highest[name], float(values.max()))
            totals[name] += float(values.sum())
        quality = table["quality"].to_numpy(zero_copy_only=False)
        labels.append(quality[drawn[rows]])
        counted.update(quality.tolist())
        counted_kept.update(quality[kept[rows]].tolist())
    columns = {name: np.concatenate(found) for name, found in parts.items()}
    spreads = {
        name: Spread(lowest[name], highest[name], totals[name] / n, _quantiles(columns[name], (0.25, 0.5, 0.75)))
        for name in (names if n else ())
    }
    unlabelled = counted.pop(None, 0) + counted.pop("", 0)
    of_row = np.concatenate(labels)
    of_labels = []
    for label, rows in counted.most_common(most_labels):
        quantiles = _quantiles(columns[by][of_row == label], (0.05, 0.25, 0.5, 0.75, 0.95))
        of_labels.append(OfLabel(str(label), rows, counted_kept[label], quantiles))
    return Scores(n, int(drawn.sum()), columns, kept[drawn], spreads, tuple(of_labels), len(counted), unlabelled)


def _quantiles(values: np.ndarray, at: tuple[float, ...]) -> tuple[float, ...]:
    """Of no values, none."""
    return tuple(float(value) for value in np.quantile(values, at)) if len(values) else ()


def rank_correlations(columns: Mapping[str, Float[np.ndarray, " rows"]]) -> dict[tuple[str, str], float | None]:
    """Spearman's correlation of each two columns, ties sharing their mean rank; None where one is constant."""
    ranks = {name: rankdata(values) for name, values in columns.items()}
    centred = {name: values - values.mean() if len(values) else values for name, values in ranks.items()}
    found: dict[tuple[str, str], float | None] = {}
    for one, a in centred.items():
        for other, b in centred.items():
            size = float(np.sqrt((a @ a) * (b @ b)))
            found[one, other] = float(np.clip(a @ b / size, -1, 1)) if size > 0 else None
    return found


@dataclass(frozen=True)
class Reason:
    """A reason why samples could not be scored, and how many it holds back."""

    stage: str
    error: str
    reason: str
    rows: int
    example: int  # a source row


def quarantine_reasons(run: UPath, most: int) -> tuple[tuple[Reason, ...], int]:
    """The most common reasons, and how many different ones there are.

    Raises:
        DataError: the file cannot be read.
    """
    counted, examples = Counter[tuple[str, str, str]](), dict[tuple[str, str, str], int]()
    for table in read_tables(run, QUARANTINE, ["source_row", "stage", "error", "reason"]):
        columns = (table[name].to_pylist() for name in ("stage", "error", "reason", "source_row"))
        for stage, error, reason, row in zip(*columns, strict=True):
            counted[stage, error, reason] += 1
            examples.setdefault((stage, error, reason), row)
    found = tuple(Reason(*why, rows, examples[why]) for why, rows in counted.most_common(most))
    return found, len(counted)
