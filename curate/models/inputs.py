"""A text, with its images, as a model takes it."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class ModelInputs:
    """One sample or document as its model takes it.

    Attributes:
        input_ids: token ids, template included.
        is_image: which positions hold image tokens, row separators included.
        tensors: what else the family's model takes, by name; the first dimension runs over images or their tiles.
        n_response: how many of the last positions are a response, with what the template writes after it.
        image: a hash of its image; None where there is none, or several.
    """

    input_ids: Int[Tensor, " tokens"]
    is_image: Bool[Tensor, " tokens"]
    tensors: Mapping[str, Tensor]
    n_response: int = 0
    image: str | None = None
