"""Where in an image some features fire."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from curate.interpret.lens import Lens
from curate.models.inputs import ModelInputs
from curate.models.packing import pack
from curate.models.patches import Patches
from curate.sae.firing import activations_of


class Heat(NamedTuple):
    """The activations of some features on an image's tokens."""

    image: Image
    patches: Patches
    values: Float[Tensor, "image_tokens features"]


@torch.inference_mode()
def heat(lens: Lens, image: Image, inputs: ModelInputs, features: list[int]) -> Heat:
    """Run an image with its text through the model, and encode its tokens."""
    model, dictionary = lens.scorer.model, lens.scorer.dictionary
    assert model is not None, "a lens without its model"
    hidden = model.hidden_states(pack([inputs]))
    values = activations_of(dictionary, hidden[inputs.is_image.to(hidden.device)], features)
    return Heat(image, lens.builder.patches(image), values.cpu())
