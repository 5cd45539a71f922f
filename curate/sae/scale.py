"""The activation scale, by which hidden states come to the norm that SAEs are trained on."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from curate.errors import ConfigurationError


def estimate_scale(hidden: Iterable[Float[Tensor, "tokens d_model"]]) -> float:
    """√d_model over the mean norm of the hidden states: what sae_lens multiplies them with in training.

    It calls this `expected_average_only_in` (Anthropic, April 2024 update).

    Args:
        hidden: without first positions and BOS, whose norms are of another size.

    Raises:
        ConfigurationError: there are none, or they are all zero or not finite.
    """
    total, tokens, d_model = 0.0, 0, 0
    for chunk in hidden:
        total += float(chunk.float().norm(dim=1).double().sum())
        tokens, d_model = tokens + len(chunk), chunk.shape[1]
    if not 0 < total < float("inf"):
        what = "zero, NaN or infinite" if tokens else "none"
        raise ConfigurationError(f"no activation scale can be estimated: hidden states of the data are {what}")
    return d_model**0.5 * tokens / total
