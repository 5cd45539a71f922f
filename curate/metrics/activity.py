"""What the metrics need to know of one sample's activations, gathered chunk by chunk."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Activity(NamedTuple):
    """A sample's activations, reduced over its tokens.

    Attributes:
        text: strongest activation of each feature on any text token, 0 where none is positive.
        image: the same over image tokens.
        n_active: activations above 0, summed over all tokens but the first.
        n_tokens: tokens of the sample.
    """

    text: Float[Tensor, " d_sae"]
    image: Float[Tensor, " d_sae"]
    n_active: Int[Tensor, ""]
    n_tokens: int


def measure_activity(
    chunks: Iterable[tuple[Float[Tensor, "tokens d_sae"], Bool[Tensor, " tokens"]]],
) -> Activity:
    """Reduce a sample's activations, given as consecutive chunks of its tokens.

    Args:
        chunks: activations z ≥ 0 and which of the tokens are image tokens, from the first token on.
            Only one chunk is held at a time, so memory does not grow with tokens × d_sae.

    Raises:
        ValueError: there is no chunk.
    """
    text = image = n_active = None
    n_tokens = 0
    for z, is_image in chunks:
        mask = is_image[:, None]
        text_max, image_max = z.masked_fill(mask, 0).amax(0), z.masked_fill(~mask, 0).amax(0)
        counted = (z[1:] if n_tokens == 0 else z).count_nonzero()
        if text is None or image is None or n_active is None:
            text, image, n_active = text_max, image_max, counted
        else:
            text, image, n_active = torch.maximum(text, text_max), torch.maximum(image, image_max), n_active + counted
        n_tokens += len(z)
    if text is None or image is None or n_active is None:
        raise ValueError("a sample has no tokens")
    return Activity(text, image, n_active, n_tokens)


def cooccurring(activity: Activity, delta: float) -> Bool[Tensor, " d_sae"]:
    """Features active (z > delta) on at least one text and at least one image token (SAE-V paper, section 3.1)."""
    return (activity.text > delta) & (activity.image > delta)


def active(activity: Activity, delta: float) -> Bool[Tensor, " d_sae"]:
    """Features active (z > delta) on at least one token."""
    return (activity.text > delta) | (activity.image > delta)
