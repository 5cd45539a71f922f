"""`cosine`: the weights of the features that fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curate.metrics.activity import active, cooccurring
from curate.metrics.metric import Evidence, Metric

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def contributions(evidence: Evidence) -> Float[Tensor, " d_sae"]:
    """What each feature adds to `cosine`, in float64: its weight where it counts, 0 elsewhere.

    It counts where it co-occurs (published code) or is active at all (paper's text), by `cosine_over`.

    Raises:
        ValueError: the evidence holds no weights.
    """
    if evidence.weights is None:
        raise ValueError("cosine needs feature weights")
    counts = cooccurring if evidence.parameters.cosine_over == "cooccurring" else active
    counted = counts(evidence.activity, evidence.parameters.bound)
    return evidence.weights.double().where(counted, 0.0)


def cosine(evidence: Evidence) -> float:
    """Sum of feature weights over the sample's co-occurring (or active) features (SAE-V paper, section 4.1)."""
    return float(contributions(evidence).sum())


METRIC = Metric("cosine", "sum of feature weights over the sample's co-occurring features", "weights", cosine)
