"""The rows of a run: what is known of a scored sample, and of one that could not be scored."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa


@dataclass(frozen=True)
class ScoredRow:
    """A sample's scores.

    Attributes:
        scores: by metric; becomes one column each.
        top_features: (feature, what it adds to `cosine`), largest first; empty without `cosine`.
        near_delta: a feature's strongest activation lies within float noise of delta, so another batch shape
            may count one feature more or less.
        near_switch: activations within float noise of zero or of their jump from it; another batch shape may
            change `l0` by as many, divided by the tokens.
        quality: the label that the data set carries, if it does.
    """

    sample_id: str
    source_row: int
    scores: dict[str, float]
    n_text_tokens: int
    n_image_tokens: int
    near_delta: bool
    near_switch: int
    quality: str | None
    top_features: list[tuple[int, float]]


@dataclass(frozen=True)
class QuarantineRow:
    """A row that could not be scored.

    Attributes:
        stage: `read`, `decode`, `inputs` or `score`.
        error: the class of the error; reason: one readable line.
    """

    source_row: int
    sample_id: str | None
    stage: str
    error: str
    reason: str


QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64()),
        pa.field("sample_id", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
_TOP_FEATURES = pa.list_(pa.struct([pa.field("feature", pa.int32()), pa.field("contribution", pa.float64())]))


def scored_schema(metrics: Sequence[str]) -> pa.Schema:
    """Columns of scored rows before they are ranked."""
    return pa.schema(
        [
            pa.field("sample_id", pa.string()),
            pa.field("source_row", pa.int64()),
            *(pa.field(metric, pa.float64()) for metric in metrics),
            pa.field("n_text_tokens", pa.int32()),
            pa.field("n_image_tokens", pa.int32()),
            pa.field("near_delta", pa.bool_()),
            pa.field("near_switch", pa.int32()),
            pa.field("quality", pa.string()),
            pa.field("top_features", _TOP_FEATURES),
        ]
    )


def manifest_schema(metrics: Sequence[str]) -> pa.Schema:
    """Columns of `manifest.parquet`: rank and score, then those of scored rows."""
    first = [pa.field("rank", pa.int64()), pa.field("score", pa.float64(), nullable=False)]
    return pa.schema([*first, *scored_schema(metrics)])


def scored_table(rows: Sequence[ScoredRow], metrics: Sequence[str]) -> pa.Table:
    """Scored rows as a table of `scored_schema`."""
    records = []
    for row in rows:
        top = [{"feature": feature, "contribution": added} for feature, added in row.top_features]
        records.append({**vars(row), **row.scores, "top_features": top})
    return pa.Table.from_pylist(records, schema=scored_schema(metrics))


def quarantine_table(rows: Sequence[QuarantineRow]) -> pa.Table:
    """Quarantined rows as a table of `QUARANTINE_SCHEMA`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=QUARANTINE_SCHEMA)


def groups(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows, the last of fewer, each in one piece."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        while count >= size:
            rows = pa.concat_tables(held)
            yield rows.slice(0, size).combine_chunks()
            held, count = [rows.slice(size)], count - size
    if count:
        yield pa.concat_tables(held).combine_chunks()
