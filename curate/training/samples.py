"""Which of a selection's samples are trained on, which validate, and which do not fit."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curate.datasets import Dataset
from curate.errors import DataError, SampleError, TooLong
from curate.manifest.atomic import write_batches
from curate.manifest.rows import QuarantineRow, quarantine_table
from curate.models.family import InputBuilder
from curate.sample import Sample
from curate.scoring.prepare import quarantined
from curate.storage import location
from curate.training.folder import QUARANTINE, SAMPLES
from curate.training.job import Method
from curate.training.plan import TrainPlan, n_validated, samples_in_a_step

TRAIN, VALIDATION, LEFT_OUT = "train", "validation", "left out"
SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("source_row", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("part", pa.string()),
    ]
)
_ROWS_AT_ONCE = 16


def write_samples(the_plan: TrainPlan, output: Path, report: Callable[[int], None]) -> None:
    """Read and tokenize every sample, draw those that validate, and write both tables.

    Args:
        report: told how many samples are read.

    Raises:
        DataError: a sample is not what was scored, or too few are left for a step.
    """
    p, job = the_plan.job.parameters, the_plan.job
    ids = the_plan.rows["sample_id"].to_pylist()
    left_out = {lost.source_row: lost for lost in _left_out(the_plan, ids, report)}
    table = the_plan.rows.select(["sample_id", "source_row"])
    source_rows = table["source_row"].to_pylist()
    fitting = [row for row in source_rows if row not in left_out]
    # From sorted rows, so that the order of a selection decides nothing.
    drawn = random.Random(f"validation:{p.seed}").sample(fitting, n_validated(len(fitting), p.validation_share))
    step = samples_in_a_step(p, job.workers)
    if len(fitting) - len(drawn) < step:
        first = next(iter(left_out.values()))
        raise DataError(
            f"{len(left_out):,} of {len(ids):,} samples do not fit, and {len(fitting) - len(drawn):,} are left to "
            f"train on, where a step takes {step:,}; the first: row {first.source_row}: {first.reason}"
        )
    parts = dict.fromkeys(fitting, TRAIN) | dict.fromkeys(drawn, VALIDATION)
    table = table.append_column("position", pa.array(the_plan.positions, pa.int64()))
    table = table.append_column("part", pa.array([parts.get(row, LEFT_OUT) for row in source_rows], pa.string()))
    rows = quarantine_table([left_out[row] for row in sorted(left_out)])
    write_batches(location(str(output / QUARANTINE)), rows.schema, [rows])
    write_batches(location(str(output / SAMPLES)), SAMPLES_SCHEMA, [table.cast(SAMPLES_SCHEMA)])


def samples_of(output: Path, part: str) -> pa.Table:
    """The samples of one part, as `SAMPLES_SCHEMA`."""
    return pq.read_table(output / SAMPLES, filters=[("part", "=", part)])


def responses(sample: Sample, method: Method) -> dict[str, str]:
    """The texts that are learned from, by TRL's name of their column."""
    return {"completion": sample.chosen} if method == "sft" else {"chosen": sample.chosen, "rejected": sample.rejected}


def _left_out(the_plan: TrainPlan, ids: Sequence[str], report: Callable[[int], None]) -> Iterator[QuarantineRow]:
    job, builder = the_plan.job, the_plan.model.family.load_builder(the_plan.model)
    pairs = list(zip(the_plan.positions, ids, strict=True))
    blocks = [pairs[start : start + _ROWS_AT_ONCE] for start in range(0, len(pairs), _ROWS_AT_ONCE)]
    look = partial(_unfit, the_plan.dataset, builder, job.method, job.parameters.max_length)
    with ThreadPoolExecutor(job.parameters.prepare_workers) as pool:
        try:
            done = 0
            for block, unfit in zip(blocks, pool.map(look, blocks), strict=True):
                yield from unfit
                done += len(block)
                report(done)
        finally:
            pool.shutdown(cancel_futures=True)


def _unfit(
    dataset: Dataset, builder: InputBuilder, method: Method, max_length: int, block: Sequence[tuple[int, str]]
) -> list[QuarantineRow]:
    lost = []
    for sample in scored_samples(dataset, block):
        try:
            for name, response in responses(sample, method).items():
                n_tokens = len(builder.build(sample.image, sample.question, response).input_ids)
                if n_tokens > max_length:
                    raise TooLong(f"{n_tokens:,} tokens with the {name}; the training takes {max_length:,}")
        except SampleError as error:
            lost.append(quarantined(sample.source_row, error, sample.sample_id))
    return lost


def scored_samples(dataset: Dataset, block: Sequence[tuple[int, str]]) -> Iterator[Sample]:
    """The samples at (position, sample_id) in ascending order, each as it was when it was scored.

    Raises:
        DataError: one is not.
    """
    found = dataset.samples([position for position, _ in block])
    for (source_row, sample), (_, sample_id) in zip(found, block, strict=True):
        if isinstance(sample, SampleError):
            raise DataError(f"row {source_row} of {dataset.name} was scored, but cannot be read now: {sample}")
        if sample.sample_id != sample_id:
            raise DataError(
                f"row {source_row} of {dataset.name} was changed since it was scored; restore the data, or score and "
                "select anew"
            )
        yield sample
