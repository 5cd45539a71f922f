"""`loglik`: how likely the model finds the chosen response; a control for what a metric adds to that."""

from curate.metrics.metric import Evidence, Metric


def loglik(evidence: Evidence) -> float:
    """Mean log-probability of the chosen response's tokens given image and question, in nats a token."""
    return evidence.likelihood["chosen"]


METRIC = Metric("loglik", "mean log-probability of the chosen response (a control)", "likelihood", loglik, ("chosen",))
