"""A run's rows in the order of any metric that it computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int
from upath import UPath

from curate.errors import ConfigurationError
from curate.manifest.rank import rank_order
from curate.manifest.record import MANIFEST, RunRecord
from curate.manifest.verify import read_tables


def checked_metric(run: UPath, record: RunRecord, by: str | None) -> str:
    """The metric to go by: that which is asked for, or the one that the manifest is ranked by.

    Raises:
        ConfigurationError: the run did not compute it.
    """
    if by is not None and by not in record.metrics:
        raise ConfigurationError(f"--by {by}: {run} has {', '.join(record.metrics)}")
    return by or record.metrics[0]


def best_first(run: UPath, record: RunRecord, metric: str) -> Int[np.ndarray, " rows"]:
    """Where in the manifest the rows lie, from the best to the worst by a metric, ties as in the manifest.

    Holds 8 bytes a row; for a metric that the manifest is not ranked by, about 60 more while it sorts.

    Raises:
        DataError: the manifest cannot be read.
    """
    if metric == record.metrics[0]:
        return np.arange(sum(rows.num_rows for rows in read_tables(run, MANIFEST, ["rank"])))
    order = rank_order(metric)
    tables = list(read_tables(run, MANIFEST, [name for name, _ in order]))
    if not tables:
        return np.empty(0, np.int64)
    indices = pc.sort_indices(pa.concat_tables(tables), sort_keys=order)  # type: ignore[attr-defined]
    return indices.to_numpy().astype(np.int64)


def rows_at(run: UPath, positions: Sequence[int], columns: list[str] | None = None) -> list[dict[str, Any]]:
    """The manifest's rows that lie at some positions, in the order of these.

    Raises:
        DataError: the manifest cannot be read.
    """
    wanted = np.unique(np.asarray(positions, np.int64))
    found: dict[int, dict[str, Any]] = {}
    seen = 0
    for rows in read_tables(run, MANIFEST, columns):
        here = wanted[(wanted >= seen) & (wanted < seen + rows.num_rows)]
        if len(here):
            # Row by row: pyarrow would import pandas to take an array's, which takes longer than all else here.
            found |= {place: rows.slice(place - seen, 1).to_pylist()[0] for place in here.tolist()}
        seen += rows.num_rows
    return [found[position] for position in positions]
