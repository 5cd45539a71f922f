"""Metrics: pure functions of a sample's activations. `METRICS` holds them all, the default ranking first."""

from curate.metrics import cooccurrence, cosine, l0, random
from curate.metrics.metric import Metric

METRICS: dict[str, Metric] = {module.METRIC.name: module.METRIC for module in (cosine, cooccurrence, l0, random)}
