"""`length`: the number of text tokens; a control, for what it finds needs no model."""

from curate.metrics.metric import Evidence, Metric


def length(evidence: Evidence) -> float:
    """Text tokens of what is scored, template included."""
    return float(evidence.n_text_tokens)


METRIC = Metric("length", "number of text tokens (a control)", "nothing", length)
