"""Which patches of an image matter, by what their tokens' features say (SAE-V paper, section 3.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from curate.errors import NonFinite
from curate.interpret.patches.job import Method
from curate.metrics.activity import cooccurring
from curate.models.patches import Patches
from curate.sae.dictionary import Dictionary
from curate.sae.firing import activation_blocks
from curate.sample import draw
from curate.scoring.scorer import encode_part

# A patch's score is a mean over areas, whose last bits depend on where the patch lies: equals must stay equals.
_DECIMALS = 9


@torch.inference_mode()
def patch_scores(
    dictionary: Dictionary,
    hidden: Float[Tensor, "tokens d_model"],
    is_image: Bool[Tensor, " tokens"],
    patches: Patches,
    delta: float,
    weights: Float[Tensor, " d_sae"],
) -> dict[Method, Float[Tensor, " patches"]]:
    """The score of each patch, row by row, by each method; the highest matter most.

    Of a token, `l0` is the number of active features (z > 0) and `l1` the sum of z; `cooccurrence` is how many of the
    features that co-occur in the whole text are active there (z > delta), and `cosine` the sum of their weights. A
    patch's score is the mean of its tokens' over its area, at all resolutions alike. `random` tells no patch from
    another.

    Args:
        hidden: of one text about one image, at the hook layer.
        is_image: on the CPU.
        delta: activation bound.
        weights: feature weights, 0 for a feature without one, on the SAE's device.

    Raises:
        NonFinite: hidden states or activations are NaN or infinite.
    """
    if not bool(hidden.isfinite().all()):
        raise NonFinite("hidden states are NaN or infinite at the hook layer")
    shared = cooccurring(encode_part(dictionary, hidden, is_image, begins=True).activity, delta)
    of_image = hidden[is_image.nonzero()[:, 0].to(hidden.device)]
    values = torch.zeros(len(of_image), 4, dtype=torch.float64, device=hidden.device)
    for tokens, features, z in activation_blocks(dictionary, of_image):
        counted = (z > delta) & shared[features]
        values[tokens, 0] += z.count_nonzero(1)
        values[tokens, 1] += z.sum(1, dtype=torch.float64)
        values[tokens, 2] += counted.count_nonzero(1)
        values[tokens, 3] += torch.where(counted, weights[features], 0).sum(1, dtype=torch.float64)
    if not bool(values.isfinite().all()):
        raise NonFinite("activations of the SAE are NaN or infinite")
    l0, l1, cooccurrence, cosine = patches.on_grid(values).flatten(0, 1).unbind(1)
    return {"l0": l0, "l1": l1, "cooccurrence": cooccurrence, "cosine": cosine, "random": torch.zeros_like(l0)}


def ranked(
    scores: Float[Tensor, " patches"], patches: Sequence[int], seed: int, image: str, method: Method
) -> list[int]:
    """Some patches, the highest score first; which of equals comes first is drawn, for by place it would be no chance.

    Args:
        patches: the numbers of those to rank.
        seed, image, method: what the draw depends on, beside the patch.
    """
    rounded = scores.round(decimals=_DECIMALS).tolist()
    return sorted(patches, key=lambda patch: (-rounded[patch], draw(seed, f"{method}:{image}:{patch}")))
