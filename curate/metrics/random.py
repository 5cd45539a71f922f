"""`random`: the baseline every other metric has to beat."""

from curate.metrics.metric import Evidence, Metric
from curate.sample import draw


def random_score(evidence: Evidence) -> float:
    """A uniform number in [0, 1), drawn from the seed and the sample's id alone."""
    return draw(evidence.parameters.seed, evidence.sample_id)


METRIC = Metric("random", "uniform noise, reproducible from the sample id alone", "nothing", random_score)
