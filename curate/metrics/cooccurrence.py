"""`cooccurrence`: how many features fire in both modalities."""

from curate.metrics.activity import cooccurring
from curate.metrics.metric import Evidence, Metric


def cooccurrence(evidence: Evidence) -> float:
    """Number of features active on at least one text and at least one image token (SAE-V paper, section 4.1)."""
    return float(cooccurring(evidence.activity, evidence.parameters.bound).sum())


METRIC = Metric(
    "cooccurrence",
    "number of features active on at least one text and at least one image token",
    "activations",
    cooccurrence,
)
