"""Feature weights of a run: computed by actors over a sample of the data, or copied from another run."""

import random
from collections.abc import Callable
from dataclasses import replace

import ray
from ray.exceptions import RayActorError
from upath import UPath

from curate.datasets import Dataset
from curate.errors import RunStopped
from curate.manifest.atomic import write_atomically
from curate.manifest.record import WEIGHTS_FOLDER
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord, weights_folder, write_weights
from curate.metrics.weights import FeatureWeights
from curate.pipeline.job import Plan
from curate.pipeline.stream import prepared
from curate.pipeline.watch import suspect_list
from curate.pipeline.workers import WeightsActor
from curate.storage import location

_ATTEMPTS = 3


def make_weights(the_plan: Plan, run: UPath, report: Callable[[int, int], None]) -> WeightsRecord:
    """Write the run's `weights/`: those it was given, or new ones over a seeded sample of the data.

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
        return the_plan.weights
    dataset = weight_dataset(the_plan.dataset, job.parameters.weight_samples, job.parameters.seed)
    weights, n_samples = _computed(the_plan, dataset, report)
    return write_weights(
        run / WEIGHTS_FOLDER,
        weights.weight,
        weights.has_weight,
        model_sha256=the_plan.model.sha256,
        sae_sha256=the_plan.sae.sha256,
        dataset_sha256=the_plan.dataset_sha256,
        hook_layer=job.parameters.hook_layer,
        text=job.parameters.text,
        rule=job.parameters.weight_rule,
        top_k=job.parameters.top_k,
        seed=job.parameters.seed,
        samples=n_samples,
    )


def weight_dataset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """The rows that feature weights are computed from: all, or a seeded draw."""
    if samples >= len(dataset):
        return dataset
    positions = sorted(random.Random(f"weights:{seed}").sample(range(len(dataset)), samples))
    return replace(dataset, rows=[dataset.rows[position] for position in positions])


def _computed(the_plan: Plan, dataset: Dataset, report: Callable[[int, int], None]) -> tuple[FeatureWeights, int]:
    """An actor that dies takes its share with it, so all begin again."""
    for _ in range(_ATTEMPTS):
        actors = _actors(the_plan, dataset)
        try:
            if (result := _attempt(the_plan, dataset, actors, report)) is not None:
                return result
        except RayActorError:
            continue
        finally:
            for actor in actors:
                ray.kill(actor)
    raise RunStopped(f"the actors that compute feature weights died, or lost samples, {_ATTEMPTS} times")


def _actors(the_plan: Plan, dataset: Dataset) -> list:
    # A second thread answers for the progress while the first computes.
    options = {"num_cpus": 1, "num_gpus": the_plan.gpus_per_actor, "max_concurrency": 2}
    return [WeightsActor.options(**options).remote(the_plan, dataset.rows) for _ in range(the_plan.job.actors)]


def _attempt(
    the_plan: Plan, dataset: Dataset, actors: list, report: Callable[[int, int], None]
) -> tuple[FeatureWeights, int] | None:
    """The weights; None where a sample came to no actor, or to two."""
    step = the_plan.job.shard_rows
    ranges = [(start, min(start + step, len(dataset))) for start in range(0, len(dataset), step)]
    splits = prepared(the_plan, dataset, ranges, suspect_list()).streaming_split(len(actors))
    pending = [actor.consume.remote(split) for actor, split in zip(actors, splits, strict=True)]
    while pending:
        finished, pending = ray.wait(pending, num_returns=len(pending), timeout=0.5)
        ray.get(finished)
        report(sum(ray.get([actor.progress.remote() for actor in actors])), len(dataset))
    taken = [row for rows in ray.get([actor.taken.remote() for actor in actors]) for row in rows]
    if sorted(taken) != list(dataset.rows):
        return None
    first, *others = actors
    for other in others:
        ray.get(first.merge.remote(other.kept.remote()))
    return ray.get(first.weights.remote(the_plan))
