"""The first pass of a run, over a sample of its data: how the SAE is read, how well it fits, and feature weights."""

import random
from collections import Counter
from dataclasses import replace
from functools import reduce
from math import ceil
from typing import NamedTuple

from upath import UPath

from curate.datasets import Dataset, spread
from curate.errors import RunStopped
from curate.manifest.atomic import write_atomically
from curate.manifest.record import WEIGHTS_FOLDER, Fit, SAERecord, Throughput, write_sae
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord, weights_folder, write_weights
from curate.pipeline.executor import Computed, Executor, WorkersDied
from curate.pipeline.meter import throughput
from curate.pipeline.plan import Plan
from curate.pipeline.watch import STRIKES
from curate.sae.dictionary import DictionaryInfo
from curate.sae.quality import Quality
from curate.scoring.fit import FIT_SAMPLES
from curate.storage import location

_ATTEMPTS = 3
# What an actor keeps is gigabytes with a large SAE, and another actor has to take it in.
_FEWEST_SAMPLES_AN_ACTOR = 32


class FirstPass(NamedTuple):
    """What a run keeps of its first pass.

    Attributes:
        sae: how the SAE is read, and how well it fits.
        weights: the record of the feature weights that it computed; None if it computed none.
        throughput: of the attempt that succeeded; None if it ran no sample.
    """

    sae: SAERecord
    weights: WeightsRecord | None
    throughput: Throughput | None


def first_pass(executor: Executor, plan: Plan, run: UPath, weigh: bool, reading: str | None = None) -> FirstPass:
    """Write the run's `sae.json` and, if `weigh`, its `weights/`, from a seeded sample of the data.

    Without `weigh` only as many samples are run as the fit is measured on.

    Args:
        reading: how an earlier session came to the SAE's activation scale, if it measured it.

    Raises:
        ConfigurationError: the SAE's config leaves its activation scale open, and no reading of it clearly fits.
        RunStopped: the workers died again and again.
    """
    parameters = plan.job.parameters
    dataset = weight_dataset(plan.dataset, parameters.weight_samples, parameters.seed)
    if not weigh:
        dataset = replace(dataset, rows=spread(dataset.rows, FIT_SAMPLES))
    found = _computed(executor, plan, dataset, weigh)
    if found.sae.reading is None:
        found = found._replace(sae=found.sae.model_copy(update={"reading": reading}))
    write_sae(run, found.sae)
    record = None
    if found.weights is not None:
        record = write_weights(
            run / WEIGHTS_FOLDER,
            found.weights.weight,
            found.weights.has_weight,
            found.places,
            model_sha256=plan.model.sha256,
            sae_sha256=plan.sae.sha256,
            sae_scale=found.sae.scale,
            dataset_sha256=plan.dataset_sha256,
            hook_layer=plan.hook_layer,
            text=parameters.weights_text,
            rule=parameters.weight_rule,
            top_k=parameters.top_k,
            seed=parameters.seed,
            samples=found.n_samples,
        )
    achieved = throughput(found.work, found.seconds, len(dataset) - found.ran) if found.ran else None
    return FirstPass(found.sae, record, achieved)


def copy_weights(plan: Plan, run: UPath) -> WeightsRecord:
    """Copy the feature weights that the job names into the run."""
    assert plan.weights is not None, "a job that names no weights"
    source = weights_folder(location(str(plan.job.weights)))
    (run / WEIGHTS_FOLDER).mkdir(exist_ok=True)
    for name in (WEIGHTS_FILE, WEIGHTS_RECORD):
        data = (source / name).read_bytes()
        write_atomically(run / WEIGHTS_FOLDER / name, lambda temporary, data=data: temporary.write_bytes(data))
    return plan.weights


def weight_dataset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """The rows that feature weights are computed from: all, or a seeded draw."""
    if samples >= len(dataset):
        return dataset
    positions = sorted(random.Random(f"weights:{seed}").sample(range(len(dataset)), samples))
    return replace(dataset, rows=[dataset.rows[position] for position in positions])


def _computed(executor: Executor, plan: Plan, dataset: Dataset, weigh: bool) -> Computed:
    """Run the pass, starting anew when a worker dies, since its share is lost.

    Samples that killed workers repeatedly are skipped.
    """
    strikes, attempts, watched = Counter[int](), 0, False
    while attempts < _ATTEMPTS:
        try:
            if (result := executor.first_pass(plan, dataset, weigh, watched)) is not None:
                return result
        except WorkersDied as deaths:
            strikes.update(deaths.rows)
        watched = True
        lost = {row for row, count in strikes.items() if count >= STRIKES}
        attempts = 0 if lost.intersection(dataset.rows) else attempts + 1
        if lost:
            dataset = replace(dataset, rows=[row for row in dataset.rows if row not in lost])
    raise RunStopped(f"the workers of the first pass died, or lost samples, {_ATTEMPTS} times")


def weight_actors(plan: Plan, samples: int) -> int:
    """How many actors make the first pass over so many samples."""
    return min(plan.job.resources.fewest, ceil(samples / _FEWEST_SAMPLES_AN_ACTOR))


def sae_record(
    sae: DictionaryInfo, scale: float, fits: list[tuple[Quality, int, int]], reading: str | None
) -> SAERecord:
    """How an SAE was read and how well it fits.

    Args:
        fits: what each worker measured; on how many samples, and how many overflowed.
    """

    def both(one: Quality, other: Quality) -> Quality:
        one.merge(other)
        return one

    qualities, samples, overflowed = zip(*fits, strict=True)
    figures = reduce(both, qualities).result().modalities
    return SAERecord(
        sha256=sae.sha256,
        scale=scale,
        reading=reading,
        units=sae.units,
        licence=sae.licence,
        samples=sum(samples),
        overflowed=sum(overflowed),
        fit={
            modality: Fit.model_validate(figures[modality].model_dump(include=set(Fit.model_fields)))
            for modality in ("text", "image")
        },
    )
