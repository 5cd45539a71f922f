"""How well each metric tells good from bad on a user's own data, before any training is paid for."""

import io
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from upath import UPath

from curate import __version__
from curate.datasets import Dataset, DatasetSpec, open_dataset
from curate.errors import ConfigurationError, DataError, SampleError
from curate.experiments.calibrate_job import DAMAGED, ORIGINAL, PLOT, SAMPLES, CalibrateJob
from curate.experiments.calibration import FEWEST, Calibration, Found, sentences
from curate.experiments.damage import DAMAGES, OF_ANOTHER
from curate.experiments.paired_auroc import own_share, paired_auroc
from curate.experiments.records import CALIBRATION as RECORD
from curate.manifest.atomic import write_batches, write_text
from curate.manifest.inputs import INPUTS_FILE, RunInputs, own_files, read_inputs, versions, write_inputs
from curate.manifest.lock import LOCK, locked
from curate.manifest.record import MANIFEST, RunRecord, SAERecord
from curate.manifest.verify import read_tables
from curate.pipeline.plan import agreeing
from curate.pipeline.progress import Progress, Report
from curate.pipeline.score import score
from curate.pipeline.session import SAME_COMMAND
from curate.sample import Sample
from curate.storage import location, remove

OURS = {ORIGINAL, DAMAGED, SAMPLES, RECORD, PLOT, INPUTS_FILE, LOCK}
_PARTS = [pa.field("question", pa.string()), pa.field("image", pa.binary())]
_PARTS += [pa.field("chosen", pa.string()), pa.field("rejected", pa.string())]
ORIGINAL_SCHEMA = pa.schema([*_PARTS, pa.field("source_row", pa.int64())])
# `original`: the row in the table of originals.
DAMAGED_SCHEMA = pa.schema([*_PARTS, pa.field("damage", pa.string()), pa.field("original", pa.int64())])
_GROUP_ROWS = 256


class CalibratePlan(NamedTuple):
    """A job whose data, model and SAE were found and agree."""

    job: CalibrateJob
    dataset: Dataset
    decides: dict[str, Any]


def plan(job: CalibrateJob) -> CalibratePlan:
    """Open the data and look at model and SAE; loads no weights.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data cannot be read, or the hub cannot be reached.
    """
    job = job.absolute()
    own_files(Path(job.output), OURS, "calibration")
    dataset = open_dataset(job.score.dataset)
    pair = agreeing(job.score)
    if len(dataset) < 2:
        raise ConfigurationError(f"--samples: {dataset.name} has one row, and to swap images takes two")
    decides = {
        "data stamp": dataset.stamp(),
        "dataset": job.score.dataset.model_dump(mode="json"),
        "model hash": pair.model.sha256,
        "SAE hash": pair.sae.sha256,
        "samples": job.samples,
        "damages": list(job.damages),
        "seed": job.seed,
    }
    return CalibratePlan(job, dataset, decides)


def calibrate(plan: CalibratePlan, report: Report, overwrite: bool = False) -> Calibration:
    """Damage copies of samples, score originals and copies alike, and say how well each metric tells them apart.

    What is done already is not done again.

    Raises:
        ConfigurationError: the output folder holds another calibration.
        DataError: too few samples can be read, or data changed.
        RunStopped, KeyboardInterrupt: as of scoring; the same command goes on.
    """
    job, output = plan.job, location(plan.job.output)
    with locked(output):
        if overwrite:
            for name in OURS - {LOCK}:
                if (output / name).exists():
                    remove(output / name)
        _refuse_another(plan, output)
        counts = _samples(plan, output / SAMPLES, report)
        original = _scored(job, ORIGINAL, None, report)
        weights = f"{job.output}/{ORIGINAL}" if job.score.parameters.needs_weights else None
        damaged = _scored(job, DAMAGED, weights, report, original.sae)
        found = list(_compare(job, output, original.metrics))
        record = Calibration(
            version=__version__,
            job=job.model_dump(mode="json"),
            hashes=original.hashes.model_dump(),
            hook_layer=original.hook_layer,
            samples=counts.originals,
            unreadable=counts.unreadable,
            not_applicable=counts.not_applicable,
            quarantined=original.counts.quarantined + damaged.counts.quarantined,
            found=found,
            sentences=sentences(found),
        )
        write_text(output / RECORD, record.model_dump_json(indent=2) + "\n")
        return record


def _refuse_another(plan: CalibratePlan, output: UPath) -> None:
    inputs = RunInputs(
        arguments=plan.job.model_dump(mode="json"), decides=plan.decides, versions=versions("ray", "pyarrow")
    )
    begun = read_inputs(output)
    if begun is None:
        write_inputs(output, inputs)
    elif differences := begun.differences(inputs):
        raise ConfigurationError(
            f"--output {output} holds a calibration with another {'; '.join(differences)}; choose another folder, or "
            "--overwrite"
        )


class _Drawn(NamedTuple):
    """What is kept of a sample while others are read: images may be large."""

    position: int
    sample_id: str
    chosen: str
    image_sha256: bytes


class _Counts(NamedTuple):
    """Of the tables: how many originals, rows that could not be read, and samples that a damage cannot be done to."""

    originals: int
    unreadable: int
    not_applicable: dict[str, int]


def _samples(plan: CalibratePlan, folder: UPath, report: Report) -> _Counts:
    """Write the originals and their damaged copies as two tables, unless they are there.

    Raises:
        ConfigurationError: no damage can be done to any of them.
        DataError: too few can be read.
    """
    job, dataset = plan.job, plan.dataset
    positions = range(len(dataset))
    if job.samples < len(dataset):
        positions = sorted(random.Random(f"calibrate:{job.seed}").sample(positions, job.samples))
    if not (folder / f"{DAMAGED}.parquet").exists():  # which is written last
        _write_samples(plan, positions, folder, report)
    n = sum(table.num_rows for table in read_tables(folder, f"{ORIGINAL}.parquet", ["source_row"]))
    copies = Counter(
        damage
        for table in read_tables(folder, f"{DAMAGED}.parquet", ["damage"])
        for damage in table["damage"].to_pylist()
    )
    if not copies:
        raise ConfigurationError(
            f"--damages {', '.join(job.damages)}: none of them changes any of {n:,} samples; name others"
        )
    return _Counts(n, len(positions) - n, {damage: n - copies[damage] for damage in job.damages})


def _write_samples(plan: CalibratePlan, positions: Sequence[int], folder: UPath, report: Report) -> None:
    """Both tables; the same settings write the same bytes."""
    job, dataset = plan.job, plan.dataset
    drawn: list[_Drawn] = []

    def originals() -> Iterator[dict[str, Any]]:
        for position, (_, sample) in zip(positions, dataset.samples(positions), strict=True):
            if not isinstance(sample, SampleError):
                drawn.append(_Drawn(position, sample.sample_id, sample.chosen, sha256(sample.image.tobytes()).digest()))
                yield {**_parts(sample), "source_row": sample.source_row}

    def copies() -> Iterator[dict[str, Any]]:
        for index, each in enumerate(drawn):
            report(Progress("samples", index, len(drawn)))
            sample, other = _read(dataset, each), None
            if OF_ANOTHER.intersection(job.damages):
                found = _other(drawn, each, random.Random(f"{job.seed}:{each.sample_id}"))
                other = found and _read(dataset, found)
            for damage in job.damages:
                copy = DAMAGES[damage](sample, other, random.Random(f"{job.seed}:{each.sample_id}:{damage}"))
                if copy is not None:
                    yield {**_parts(copy), "damage": damage, "original": index}
        report(Progress("samples", len(drawn), len(drawn)))

    folder.mkdir(parents=True, exist_ok=True)
    for name, schema, rows in ((ORIGINAL, ORIGINAL_SCHEMA, originals()), (DAMAGED, DAMAGED_SCHEMA, copies())):
        write_batches(folder / f"{name}.parquet", schema, _tables(rows, schema), group_rows=_GROUP_ROWS)
        if len(drawn) < 2:
            raise DataError(
                f"{len(drawn)} of {len(positions)} samples of {dataset.name} can be read; to damage takes 2"
            )


def _tables(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    while batch := list(islice(rows, _GROUP_ROWS)):
        yield pa.Table.from_pylist(batch, schema=schema)


def _read(dataset: Dataset, drawn: _Drawn) -> Sample:
    _, sample = next(dataset.samples([drawn.position]))
    if isinstance(sample, SampleError) or sample.sample_id != drawn.sample_id:
        raise DataError(f"row {dataset.rows[drawn.position]} of {dataset.name} changed while it was read; begin anew")
    return sample


def _other(drawn: Sequence[_Drawn], one: _Drawn, rng: random.Random) -> _Drawn | None:
    """A sample drawn from those with another image and another chosen response."""
    shuffled = (drawn[place] for place in rng.sample(range(len(drawn)), len(drawn)))
    return next((o for o in shuffled if o.chosen != one.chosen and o.image_sha256 != one.image_sha256), None)


def _parts(sample: Sample) -> dict[str, Any]:
    png = io.BytesIO()
    sample.image.save(png, "PNG")
    texts = {"question": sample.question, "chosen": sample.chosen, "rejected": sample.rejected}
    return {**texts, "image": png.getvalue()}


def _scored(
    job: CalibrateJob, name: str, weights: str | None, report: Report, sae: SAERecord | None = None
) -> RunRecord:
    """A table scored as the job says; images were resized when they were read. What fails is counted and skipped.

    Args:
        sae: how the SAE is read; damaged samples say nothing about its scale or its fit.
    """
    update = {
        "output": f"{job.output}/{name}",
        "dataset": DatasetSpec(name=f"{job.output}/{SAMPLES}/{name}.parquet"),
        "max_error_rate": 1.0,
        "weights": weights or job.score.weights,
        "allow_poor_fit": job.score.allow_poor_fit or sae is not None,  # the original was allowed
    }
    scored = job.score.model_copy(update=update)
    return score(scored, report, lambda plan, done: None, go_on=SAME_COMMAND, sae=sae)


def _compare(job: CalibrateJob, output: UPath, metrics: Sequence[str]) -> Iterator[Found]:
    columns = ["source_row", "n_text_tokens", *metrics]
    runs = {name: _by_row(output / name, columns) for name in (ORIGINAL, DAMAGED)}
    origin = pa.concat_tables(read_tables(output / SAMPLES, f"{DAMAGED}.parquet", ["damage", "original"]))
    copies = list(zip(origin["damage"].to_pylist(), origin["original"].to_pylist(), strict=True))
    for damage in job.damages:
        pairs = [
            (original, row)
            for row, (name, original) in enumerate(copies)
            if name == damage and row in runs[DAMAGED] and original in runs[ORIGINAL]
        ]
        good = [runs[ORIGINAL][original] for original, _ in pairs]
        bad = [runs[DAMAGED][row] for _, row in pairs]
        lengths = (_column(good, "n_text_tokens"), _column(bad, "n_text_tokens"))
        by_length = paired_auroc(*lengths) if len(pairs) > 1 else None
        differ = by_length is not None and abs(by_length.value - 0.5) > 2 * by_length.standard_error
        for metric in metrics if len(pairs) > 1 else []:
            scores = (_column(good, metric), _column(bad, metric))
            auroc, own = paired_auroc(*scores), own_share(*scores)
            assert auroc is not None  # every pair counts
            matched = paired_auroc(*scores, lengths=lengths) if differ else None
            enough = matched is not None and _matched_samples(*lengths) >= FEWEST
            yield Found(
                metric=metric,
                damage=damage,
                n=len(pairs),
                auroc=auroc.value,
                standard_error=auroc.standard_error,
                own_share=own.value,
                own_standard_error=own.standard_error,
                length_differs=differ,
                matched_auroc=matched.value if matched and enough else None,
                matched_standard_error=matched.standard_error if matched and enough else None,
                matched_comparisons=matched.n_comparisons if matched else 0,
            )


def _matched_samples(original: np.ndarray, damaged: np.ndarray) -> int:
    """Of the side that has fewer: samples with a counterpart of their length on the other."""
    return int(min(np.isin(original, damaged).sum(), np.isin(damaged, original).sum()))


def _by_row(run: UPath, columns: Sequence[str]) -> dict[int, dict[str, float]]:
    rows = (row for table in read_tables(run, MANIFEST, list(columns)) for row in table.to_pylist())
    return {row["source_row"]: row for row in rows}


def _column(rows: Sequence[dict[str, float]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])
