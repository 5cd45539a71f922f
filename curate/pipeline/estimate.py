"""How long a run takes, and how many GPU hours, from what a probe measured."""

from dataclasses import dataclass
from math import ceil

from curate.pipeline.first_pass import weight_actors
from curate.pipeline.plan import Plan
from curate.pipeline.probe import Probe


@dataclass(frozen=True)
class Estimate:
    """Of a whole run.

    Attributes:
        seconds: of work; starting the workers, reading all data once for their hash, and ranking come on top.
        weights_seconds: those of them for feature weights, of `weight_samples` samples.
        samples_per_second: while it scores.
        actors_wait: whether preparation, not the actors, sets the pace.
    """

    samples: int
    seconds: float
    weight_samples: int
    weights_seconds: float
    samples_per_second: float
    gpu_hours: float
    actors_wait: bool


def estimate(plan: Plan, probe: Probe, samples: int, workers: int, cores: int | None) -> Estimate:
    """The run's time: first its weights, then its scores.

    Args:
        samples: to score.
        workers: that prepare.
        cores: of this machine, where actors and workers are to share them; None on a cluster, which divides them.
    """
    actors = plan.job.resources.actors
    busy = plan.cpus_per_actor if plan.device == "cpu" else 0

    def pace(actor_seconds: float, actors: int) -> float:
        """Seconds between one sample and the next."""
        shared = (actor_seconds * busy + probe.prepare_seconds) / cores if cores else 0.0
        return max(actor_seconds / actors, probe.prepare_seconds / workers, shared)

    score, weight_samples, weights_seconds = pace(probe.score_seconds, actors), 0, 0.0
    if probe.weights_seconds:
        weight_samples = min(plan.job.parameters.weight_samples, len(plan.dataset))
        weights_seconds = weight_samples * pace(probe.weights_seconds, weight_actors(plan, weight_samples))
    seconds = weights_seconds + samples * score
    return Estimate(
        samples=samples,
        seconds=seconds,
        weight_samples=weight_samples,
        weights_seconds=weights_seconds,
        samples_per_second=1 / score,
        gpu_hours=actors * plan.gpus_per_actor * ceil(seconds) / 3600,
        actors_wait=probe.prepare_seconds / workers > probe.score_seconds / actors,
    )
