"""How well each metric tells labelled defects from clean samples, when the data carry `quality` labels."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from scipy.stats import rankdata

from curate.datasets.demo import CLEAN
from curate.errors import DataError

BASELINES = ("n_tokens", "n_text_tokens")


@dataclass(frozen=True)
class LabelReport:
    """AUROC of one score against one label.

    Attributes:
        auroc: probability that a clean sample scores higher than a labelled one, ties counting half.
        standard_error: of `auroc`, by DeLong's method.
    """

    score: str
    label: str
    auroc: float
    standard_error: float
    n_clean: int
    n_labelled: int


def auroc(clean: Float[np.ndarray, " m"], other: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """AUROC of clean over other, and its standard error (DeLong, DeLong & Clarke-Pearson 1988).

    The standard error is NaN where one side has fewer than two samples.
    """
    m, n = len(clean), len(other)
    together = rankdata(np.concatenate((clean, other)))
    above_other = (together[:m] - rankdata(clean)) / n
    above_clean = (together[m:] - rankdata(other)) / m
    value = float(above_other.mean())
    if min(m, n) < 2:
        return value, float("nan")
    return value, float(np.sqrt(above_other.var(ddof=1) / m + above_clean.var(ddof=1) / n))


def label_report(manifest: pa.Table, metrics: list[str]) -> list[LabelReport]:
    """Every metric, and token counts as baselines, against every label but `clean`.

    Raises:
        DataError: the manifest has no labels, or no clean samples to compare with.
    """
    quality = np.array(manifest["quality"].to_pylist(), dtype=object)
    labels = sorted({label for label in quality if label is not None and label != CLEAN})
    if not labels or not (quality == CLEAN).any():
        raise DataError(f"the run's data carry no quality labels beside {CLEAN!r}; there is nothing to report on")
    scores = {name: manifest[name].to_numpy() for name in metrics}
    scores["n_tokens"] = manifest["n_text_tokens"].to_numpy() + manifest["n_image_tokens"].to_numpy()
    scores["n_text_tokens"] = manifest["n_text_tokens"].to_numpy()
    reports = []
    for name, values in scores.items():
        clean = values[quality == CLEAN]
        for label in labels:
            labelled = values[quality == label]
            reports.append(LabelReport(name, label, *auroc(clean, labelled), len(clean), len(labelled)))
    return reports
