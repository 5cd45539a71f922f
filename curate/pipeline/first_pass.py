"""The first pass of a run, over a sample of its data: how the SAE is read, how well it fits, and feature weights."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from math import ceil
from typing import NamedTuple

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from upath import UPath

from curate.datasets import Dataset, spread
from curate.errors import RunStopped
from curate.manifest.atomic import write_atomically
from curate.manifest.record import WEIGHTS_FOLDER, Fit, SAERecord, write_sae
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord, weights_folder, write_weights
from curate.metrics.weights import FeatureWeights, Places
from curate.pipeline.cluster import actor_needs, ray_options
from curate.pipeline.first_pass_actor import FirstPassActor
from curate.pipeline.job import Plan
from curate.pipeline.meter import Work
from curate.pipeline.session import Progress, Report
from curate.pipeline.stream import prepared
from curate.pipeline.watch import STRIKES, suspect_list
from curate.sae.dictionary import DictionaryInfo, known_scale
from curate.sae.quality import Quality
from curate.sae.reading import Reading
from curate.scoring.fit import FIT_SAMPLES, READING_SAMPLES
from curate.storage import location

_ATTEMPTS = 3
# What an actor keeps is gigabytes with a large SAE, and another actor has to take it in.
_FEWEST_SAMPLES_AN_ACTOR = 32


class FirstPass(NamedTuple):
    """Results of a run's first pass.

    Attributes:
        sae: how the SAE is read, and how well it fits.
        weights: the record of the feature weights that it computed; None if it computed none.
        work: of the attempt that succeeded.
        unused: how many of its samples could not be used.
    """

    sae: SAERecord
    weights: WeightsRecord | None
    work: Work
    unused: int


def first_pass(plan: Plan, run: UPath, report: Report, weigh: bool, reading: str | None = None) -> FirstPass:
    """Write the run's `sae.json` and, if `weigh`, its `weights/`, from a seeded sample of the data.

    Without `weigh` only as many samples are run as the fit is measured on.

    Args:
        reading: how an earlier session came to the SAE's activation scale, if it measured it.

    Raises:
        ConfigurationError: the SAE's config leaves its activation scale open, and no reading of it clearly fits.
        RunStopped: the actors died again and again.
    """
    parameters = plan.job.parameters
    dataset = weight_dataset(plan.dataset, parameters.weight_samples, parameters.seed)
    if not weigh:
        dataset = replace(dataset, rows=spread(dataset.rows, FIT_SAMPLES))
    found = _computed(plan, dataset, report, weigh)
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
    return FirstPass(found.sae, record, found.work, len(dataset) - int(found.work.samples))


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


class _Computed(NamedTuple):
    """What an attempt came to; feature weights with the tokens and samples behind them, if it weighed."""

    sae: SAERecord
    weights: FeatureWeights | None
    places: dict[str, Places]
    n_samples: int
    work: Work


def _computed(plan: Plan, dataset: Dataset, report: Report, weigh: bool) -> _Computed:
    """Run the pass, starting anew when an actor dies, since its share is lost.

    Samples that killed actors repeatedly are skipped.
    """
    suspects, strikes, attempts = None, Counter[int](), 0
    while attempts < _ATTEMPTS:
        actors = _actors(plan, dataset, weigh, suspects)
        try:
            if (result := _attempt(plan, dataset, weigh, actors, report)) is not None:
                return result
        except RayActorError:
            strikes.update(_in_dead_hands(actors, suspects))
        finally:
            for actor in actors:
                ray.kill(actor)
        # The first attempt goes unwatched: to tell of every sample costs time.
        suspects = suspect_list()
        lost = {row for row, count in strikes.items() if count >= STRIKES}
        attempts = 0 if lost.intersection(dataset.rows) else attempts + 1
        dataset = replace(dataset, rows=[row for row in dataset.rows if row not in lost])
    raise RunStopped(f"the actors of the first pass died, or lost samples, {_ATTEMPTS} times")


def _actors(plan: Plan, dataset: Dataset, weigh: bool, suspects: ActorHandle | None) -> list:
    # A second thread answers for the progress while the first computes.
    remote = FirstPassActor.options(**ray_options(actor_needs(plan)), max_concurrency=2).remote
    return [remote(plan, dataset, weigh, index, suspects) for index in range(weight_actors(plan, len(dataset)))]


def weight_actors(plan: Plan, samples: int) -> int:
    """How many actors make the first pass over so many samples."""
    return min(plan.job.resources.fewest, ceil(samples / _FEWEST_SAMPLES_AN_ACTOR))


def _in_dead_hands(actors: list, suspects: ActorHandle | None) -> list[int]:
    """The samples that dead actors had in hand."""
    rows = []
    for index, actor in enumerate(actors):
        try:
            ray.get(actor.progress.remote())
        except RayActorError:
            rows.append(ray.get(suspects.in_hand.remote(index)) if suspects else None)
    return [row for row in rows if row is not None]


def _attempt(plan: Plan, dataset: Dataset, weigh: bool, actors: list, report: Report) -> _Computed | None:
    """None where a sample came to no actor, or to two."""
    first, *others = actors
    reading: Reading | None = None
    if plan.sae.scale is None:
        read, total = first.read_sae.remote(), min(READING_SAMPLES, len(dataset))
        _wait([read], [first.reading_progress], lambda done: report(Progress("reading", done, total)))
        reading = ray.get(read)
        report(Progress("reading", total, total))
    scale = known_scale(plan.sae) if reading is None else reading.scale
    step = plan.job.shard_rows
    ranges = [(start, min(start + step, len(dataset))) for start in range(0, len(dataset), step)]
    splits = prepared(plan, dataset, ranges, "weights", suspect_list()).streaming_split(len(actors))
    stage = "weights" if weigh else "fit"
    pending = [actor.consume.remote(split, scale) for actor, split in zip(actors, splits, strict=True)]
    _wait(pending, [actor.progress for actor in actors], lambda done: report(Progress(stage, done, len(dataset))))
    taken = ray.get([actor.taken.remote() for actor in actors])
    if sorted(row for rows, _ in taken for row in rows) != list(dataset.rows):
        return None
    fits = ray.get([actor.fitted.remote() for actor in actors])
    sae = sae_record(plan.sae, scale, fits, None if reading is None else reading.note)
    work = sum((work for _, work in taken), Work())
    if not weigh:
        return _Computed(sae, None, {}, 0, work)
    for other in others:
        ray.get(first.merge.remote(other.kept.remote()))
    weights, places, n_samples = ray.get(first.weights.remote())
    return _Computed(sae, weights, places, n_samples, work)


def _wait(pending: list, progress: list, tell: Callable[[int], None]) -> None:
    """Wait for what actors compute, and tell how much is done.

    Args:
        progress: methods of the actors that say it.
    """
    while pending:
        finished, pending = ray.wait(pending, num_returns=len(pending), timeout=0.5)
        ray.get(finished)
        # Actors that have no place yet, or load, do not answer.
        answers, _ = ray.wait([method.remote() for method in progress], num_returns=len(progress), timeout=1)
        tell(sum(ray.get(answers)))


def sae_record(
    sae: DictionaryInfo, scale: float, fits: list[tuple[Quality, int, int]], reading: str | None
) -> SAERecord:
    """How an SAE was read and how well it fits.

    Args:
        fits: what each actor measured; on how many samples, and how many overflowed.
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
