"""Sort more rows than fit in memory."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa

from curate.manifest.rows import groups

# Rows of a run take about 250 bytes each, and sorting holds a few copies of them. Blocks are small because the merge
# holds back up to one of every run, and not smaller because each is a read of its own.
RUN_ROWS, BLOCK_ROWS = 1 << 15, 1 << 7

Order = list[tuple[str, str]]


def sorted_rows(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    order: Order,
    scratch: Path,
    run_rows: int = RUN_ROWS,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[pa.Table]:
    """Sort rows by way of the disk.

    Runs of `run_rows` are sorted in memory and appended, in blocks, to one file. Then the blocks are read in order of
    their first rows, a run's worth at a time: what sorts before the first row of the next block can be preceded by
    nothing that is still unread. The rest, at most a block of each run, waits.

    Args:
        tables: all of `schema`, of any sizes.
        order: columns without nulls and `ascending` or, for numbers, `descending`. No two rows may be equal in all of
            them, or their order depends on the sizes.
        scratch: a local folder with room for all rows. The file in it has no name: it is gone when the process is.
    """
    with TemporaryFile(dir=scratch) as file:
        firsts: list[tuple[tuple[Any, ...], int]] = []
        with pa.ipc.new_file(file, schema) as writer:
            for run in groups(tables, run_rows):
                for block in run.sort_by(order).to_batches(max_chunksize=block_rows):
                    firsts.append((_key(block, order, 0), len(firsts)))
                    writer.write_batch(block)
        firsts.sort()
        reader, waiting, step = pa.ipc.open_file(file), schema.empty_table(), max(1, run_rows // block_rows)
        for start in range(0, len(firsts), step):
            blocks = [reader.get_batch(number) for _, number in firsts[start : start + step]]
            rows = pa.concat_tables([waiting, pa.Table.from_batches(blocks)]).combine_chunks().sort_by(order)
            unread = firsts[start + step :][:1]
            safe = _before(rows, order, unread[0][0]) if unread else rows.num_rows
            yield rows.slice(0, safe)
            waiting = rows.slice(safe)


def _key(rows: pa.Table | pa.RecordBatch, order: Order, row: int) -> tuple[Any, ...]:
    """A row's place in the order, to be compared with those of other rows."""
    values = ((rows[name][row].as_py(), direction) for name, direction in order)
    return tuple(-value if direction == "descending" else value for value, direction in values)


def _before(rows: pa.Table, order: Order, key: tuple[Any, ...]) -> int:
    """How many of the sorted rows come before a key."""
    return bisect_left(range(rows.num_rows), key, key=lambda row: _key(rows, order, row))
