"""An image of which only some patches are left."""

from collections.abc import Collection
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from curate.models.patches import Patches


def patches_with_pixels(patches: Patches) -> list[int]:
    """The patches that can be shown or masked, by number.

    Others lie on padding, or on an image of so few pixels that no pixel's centre is theirs.
    """
    found = patches.of_pixels().unique().tolist()
    return [patch for patch in found if patch >= 0]


def n_kept(ratio: float, n: int) -> int:
    """How many of n patches are kept: the ratio of them rounded, halves up, and at least one."""
    return max(1, int((Decimal(str(ratio)) * n).quantize(Decimal(1), ROUND_HALF_UP)))


def masked_pixels(patches: Patches, kept: Collection[int]) -> Bool[Tensor, "height width"]:
    """The pixels of all patches but those that are kept; what the model does not see is not masked."""
    of_pixels = patches.of_pixels()
    return (of_pixels >= 0) & ~torch.isin(of_pixels, torch.tensor(sorted(kept)))


def mask(image: Image.Image, masked: Bool[Tensor, "height width"], colour: tuple[int, int, int]) -> Image.Image:
    """An RGB image of the same size, with one colour where it is masked."""
    pixels = np.array(image)
    pixels[masked.numpy()] = colour
    return Image.fromarray(pixels)
