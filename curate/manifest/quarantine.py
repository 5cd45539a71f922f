"""The quarantined rows of a run, finished or not."""

from typing import Any

import pyarrow as pa
from upath import UPath

from curate.manifest.inputs import read_inputs
from curate.manifest.ledger import read_ledger, read_shard
from curate.manifest.record import read_record
from curate.manifest.rows import QUARANTINE_SCHEMA


def quarantined_rows(run: UPath) -> list[dict[str, Any]]:
    """All rows that could not be scored so far, in order of `source_row`, from the shards.

    Raises:
        DataError: not a run folder, or a damaged shard.
    """
    if read_inputs(run) is None:
        read_record(run)  # says what the folder is
    tables = [read_shard(run, shard) for shard in read_ledger(run).values() if shard.quarantined]
    rows = [table.filter(table["error"].is_valid()).select(QUARANTINE_SCHEMA.names) for table in tables]
    return pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *rows]).sort_by("source_row").to_pylist()
