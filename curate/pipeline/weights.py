"""Feature weights of a run: computed by actors over a sample of the data, or copied from another run."""

import random
from collections import Counter
from dataclasses import replace
from math import ceil
from typing import NamedTuple

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from upath import UPath

from curate.datasets import Dataset
from curate.errors import RunStopped
from curate.manifest.atomic import write_atomically
from curate.manifest.record import WEIGHTS_FOLDER
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord, weights_folder, write_weights
from curate.metrics.weights import FeatureWeights, Places
from curate.pipeline.cluster import actor_needs, ray_options
from curate.pipeline.job import Plan
from curate.pipeline.meter import Work
from curate.pipeline.session import Progress, Report
from curate.pipeline.stream import prepared
from curate.pipeline.watch import STRIKES, suspect_list
from curate.pipeline.workers import WeightsActor
from curate.storage import location

_ATTEMPTS = 3
# What an actor keeps is gigabytes with a large dictionary, and another actor has to take it in.
_FEWEST_SAMPLES_AN_ACTOR = 32


def make_weights(the_plan: Plan, run: UPath, report: Report) -> tuple[WeightsRecord, Work, int]:
    """Write the run's `weights/`: those it was given, or new ones over a seeded sample of the data.

    Returns:
        the record, the work of the attempt that succeeded, and how many samples could not be used.

    Raises:
        RunStopped: the actors died again and again.
    """
    job = the_plan.job
    if the_plan.weights is not None and job.weights is not None:
        source = weights_folder(location(job.weights))
        (run / WEIGHTS_FOLDER).mkdir(exist_ok=True)
        for name in (WEIGHTS_FILE, WEIGHTS_RECORD):
            data = (source / name).read_bytes()
            write_atomically(run / WEIGHTS_FOLDER / name, lambda temporary, data=data: temporary.write_bytes(data))
        return the_plan.weights, Work(), 0
    dataset = weight_dataset(the_plan.dataset, job.parameters.weight_samples, job.parameters.seed)
    weights, places, n_samples, work = _computed(the_plan, dataset, report)
    record = write_weights(
        run / WEIGHTS_FOLDER,
        weights.weight,
        weights.has_weight,
        places,
        model_sha256=the_plan.model.sha256,
        sae_sha256=the_plan.sae.sha256,
        dataset_sha256=the_plan.dataset_sha256,
        hook_layer=the_plan.hook_layer,
        text=job.parameters.weights_text,
        rule=job.parameters.weight_rule,
        top_k=job.parameters.top_k,
        seed=job.parameters.seed,
        samples=n_samples,
    )
    return record, work, len(dataset) - int(work.samples)


def weight_dataset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """The rows that feature weights are computed from: all, or a seeded draw."""
    if samples >= len(dataset):
        return dataset
    positions = sorted(random.Random(f"weights:{seed}").sample(range(len(dataset)), samples))
    return replace(dataset, rows=[dataset.rows[position] for position in positions])


class _Computed(NamedTuple):
    """Feature weights with the tokens, samples and work behind them."""

    weights: FeatureWeights
    places: dict[str, Places]
    n_samples: int
    work: Work


def _computed(the_plan: Plan, dataset: Dataset, report: Report) -> _Computed:
    """An actor that dies takes its share with it, so all begin again, without a sample that was in hand each time."""
    suspects, strikes, attempts = None, Counter[int](), 0
    while attempts < _ATTEMPTS:
        actors = _actors(the_plan, dataset, suspects)
        try:
            if (result := _attempt(the_plan, dataset, actors, report)) is not None:
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
    raise RunStopped(f"the actors that compute feature weights died, or lost samples, {_ATTEMPTS} times")


def _actors(the_plan: Plan, dataset: Dataset, suspects: ActorHandle | None) -> list:
    # A second thread answers for the progress while the first computes.
    remote = WeightsActor.options(**ray_options(actor_needs(the_plan)), max_concurrency=2).remote
    return [remote(the_plan, dataset.rows, index, suspects) for index in range(weight_actors(the_plan, len(dataset)))]


def weight_actors(the_plan: Plan, samples: int) -> int:
    """How many actors compute feature weights from so many samples."""
    return min(the_plan.job.resources.fewest, ceil(samples / _FEWEST_SAMPLES_AN_ACTOR))


def _in_dead_hands(actors: list, suspects: ActorHandle | None) -> list[int]:
    """The samples that dead actors had in hand."""
    rows = []
    for index, actor in enumerate(actors):
        try:
            ray.get(actor.progress.remote())
        except RayActorError:
            rows.append(ray.get(suspects.in_hand.remote(index)) if suspects else None)
    return [row for row in rows if row is not None]


def _attempt(the_plan: Plan, dataset: Dataset, actors: list, report: Report) -> _Computed | None:
    """None where a sample came to no actor, or to two."""
    step = the_plan.job.shard_rows
    ranges = [(start, min(start + step, len(dataset))) for start in range(0, len(dataset), step)]
    splits = prepared(the_plan, dataset, ranges, "weights", suspect_list()).streaming_split(len(actors))
    pending = [actor.consume.remote(split) for actor, split in zip(actors, splits, strict=True)]
    while pending:
        finished, pending = ray.wait(pending, num_returns=len(pending), timeout=0.5)
        ray.get(finished)
        # Actors that have no place yet, or load, do not answer.
        answers, _ = ray.wait([actor.progress.remote() for actor in actors], num_returns=len(actors), timeout=1)
        report(Progress("weights", sum(ray.get(answers)), len(dataset)))
    taken = ray.get([actor.taken.remote() for actor in actors])
    if sorted(row for rows, _ in taken for row in rows) != list(dataset.rows):
        return None
    first, *others = actors
    for other in others:
        ray.get(first.merge.remote(other.kept.remote()))
    weights, places, n_samples = ray.get(first.weights.remote(the_plan))
    return _Computed(weights, places, n_samples, sum((work for _, work in taken), Work()))
