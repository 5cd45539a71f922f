"""`random`: the baseline every other metric has to beat."""

import hashlib

from curate.metrics.metric import Evidence, Metric


def random_score(evidence: Evidence) -> float:
    """A uniform number in [0, 1) from the seed and the sample's id alone: 53 bits of their SHA-256."""
    digest = hashlib.sha256(f"{evidence.parameters.seed}:{evidence.sample_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / 2**53


METRIC = Metric("random", "uniform noise, reproducible from the sample id alone", "nothing", random_score)
