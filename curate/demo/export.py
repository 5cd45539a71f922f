"""The embedded default as ordinary folders."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.datasets.demo import demo_row
from curate.demo import MODEL, SAE
from curate.errors import ConfigurationError

_ROWS_PER_GROUP = 100
SCHEMA = pa.schema(
    [
        pa.field("question", pa.string()),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("response_1", pa.string()),
        pa.field("response_2", pa.string()),
        pa.field("overall_response", pa.int64()),
        pa.field("quality", pa.string()),
    ]
)


def export(directory: Path, samples: int, seed: int) -> None:
    """Write `model`, `sae` and `data`; the data have align-anything's layout and columns, plus `quality`.

    Raises:
        ConfigurationError: the folder holds something already, or cannot be made.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(f"{directory} exists and is not an empty folder")
    folder = directory / "data" / "text-image-to-text"
    try:
        folder.mkdir(parents=True)
        shutil.copytree(MODEL, directory / "model")
        shutil.copytree(SAE, directory / "sae")
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be written: {error.strerror}") from error
    with pq.ParquetWriter(folder / "train-00000-of-00001.parquet", SCHEMA) as writer:
        for start in range(0, samples, _ROWS_PER_GROUP):
            rows = [demo_row(seed, row) for row in range(start, min(start + _ROWS_PER_GROUP, samples))]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
