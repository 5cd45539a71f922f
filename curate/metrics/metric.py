"""What a metric is: a rule that turns a sample into one number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from curate.metrics.activity import Activity
from curate.metrics.parameters import MetricParameters


@dataclass(frozen=True)
class Evidence:
    """All that a metric may look at. The data set's labels are not among it.

    Attributes:
        weights: feature weights; None where the run computes no metric that needs them.
    """

    sample_id: str
    activity: Activity
    weights: Float[Tensor, " d_sae"] | None
    parameters: MetricParameters


@dataclass(frozen=True)
class Metric:
    """A metric; the higher its score, the better the rank.

    Attributes:
        needs: `activations`, `weights` (feature weights too), or `nothing` but the sample's id.
    """

    name: str
    summary: str
    needs: Literal["nothing", "activations", "weights"]
    score: Callable[[Evidence], float]
