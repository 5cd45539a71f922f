"""Metrics: pure functions of what a model and its SAE see in a sample. `METRICS` holds them all.

Jobs are checked against it, so it imports no torch: metrics only call methods of the tensors that they are given.
"""

from curate.metrics import cooccurrence, cosine, ifd, l0, length, loglik, margin, random
from curate.metrics.metric import Metric

METRICS: dict[str, Metric] = {
    module.METRIC.name: module.METRIC for module in (cosine, cooccurrence, l0, random, ifd, margin, length, loglik)
}
# What a run computes unasked, the one to rank by first: for none of these need the layers above the hook layer run.
DEFAULT_METRICS = ("cosine", "cooccurrence", "l0", "random")
