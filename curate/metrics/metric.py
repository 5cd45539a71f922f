"""What a metric is: a rule that turns a sample into one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from curate.metrics.activity import Activity
from curate.metrics.parameters import MetricParameters

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# The texts whose likelihood a metric may need: a response after image and question, or the chosen one alone, after
# nothing but the token that begins (or, where there is none, ends) a sequence.
Likely = Literal["chosen", "rejected", "alone"]


@dataclass(frozen=True)
class Evidence:
    """All that a metric may look at. The data set's labels are not among it.

    Attributes:
        n_text_tokens: of the text that is scored.
        weights: feature weights; None where the run computes no metric that needs them.
        likelihood: the mean log-probability of a response's tokens, with what ends it, in nats; of those texts that
            the run's metrics need.
    """

    sample_id: str
    activity: Activity
    n_text_tokens: int
    weights: Float[Tensor, " d_sae"] | None
    likelihood: Mapping[Likely, float]
    parameters: MetricParameters


@dataclass(frozen=True)
class Metric:
    """A metric; the higher its score, the better the rank.

    Attributes:
        needs: `activations`, `weights` (feature weights too), `likelihood` (the whole model, not its lower layers
            alone), or `nothing` but the sample's id and its tokens.
        likelihood_of: the texts whose likelihood it needs.
    """

    name: str
    summary: str
    needs: Literal["nothing", "activations", "weights", "likelihood"]
    score: Callable[[Evidence], float]
    likelihood_of: tuple[Likely, ...] = ()

    @property
    def reads_activations(self) -> bool:
        """Whether its score depends on the features of the text that is scored."""
        return self.needs in ("activations", "weights")
