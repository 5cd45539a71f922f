"""What the metrics need to know of one sample's activations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class Activity(NamedTuple):
    """Activations of a text, or of a part of one, reduced over its tokens.

    Attributes:
        text: strongest activation of each feature on any text token, 0 where none is positive.
        image: the same over image tokens.
        n_active: activations above 0, summed over all tokens but the text's first.
        n_tokens: its tokens.
    """

    text: Float[Tensor, " d_sae"]
    image: Float[Tensor, " d_sae"]
    n_active: Int[Tensor, ""]
    n_tokens: int


def joined(parts: Sequence[Activity]) -> Activity:
    """The activity of a text, from its parts'."""
    texts, images, n_active, n_tokens = zip(*parts, strict=True)
    return Activity(reduce(_maximum, texts), reduce(_maximum, images), reduce(add, n_active), sum(n_tokens))


def _maximum(a: Float[Tensor, " d_sae"], b: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
    return a.maximum(b)


def cooccurring(activity: Activity, delta: float) -> Bool[Tensor, " d_sae"]:
    """Features active (z > delta) on at least one text and at least one image token (SAE-V paper, section 3.1)."""
    return (activity.text > delta) & (activity.image > delta)


def active(activity: Activity, delta: float) -> Bool[Tensor, " d_sae"]:
    """Features active (z > delta) on at least one token."""
    return (activity.text > delta) | (activity.image > delta)
