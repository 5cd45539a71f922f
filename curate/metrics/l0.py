"""`l0`: how many features fire on a token."""

from curate.metrics.metric import Evidence, Metric


def l0(evidence: Evidence) -> float:
    """Mean over tokens of the number of features with z > 0.

    The first token is left out, as in the published code; a sample of one token scores 0.
    """
    activity = evidence.activity
    return float(activity.n_active) / max(1, activity.n_tokens - 1)


METRIC = Metric("l0", "mean over tokens of the number of active features", "activations", l0)
