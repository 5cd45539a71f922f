"""`margin`: how much likelier the chosen response is than the rejected one."""

from curate.metrics.metric import Evidence, Metric


def margin(evidence: Evidence) -> float:
    """Mean log-probability of the chosen response's tokens minus that of the rejected one's, in nats a token.

    The implicit reward margin of preference-data selection, by a model that is its own reward: normalised by length, as
    in SimPO (Meng et al. 2024, equation 4, with beta 1).
    """
    return evidence.likelihood["chosen"] - evidence.likelihood["rejected"]


METRIC = Metric(
    "margin",
    "mean log-probability of the chosen response minus that of the rejected one",
    "likelihood",
    margin,
    ("chosen", "rejected"),
)
