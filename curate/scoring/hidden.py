"""Hidden states of one text that runs alone."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import NonFinite, OutOfMemory
from curate.models.inputs import ModelInputs
from curate.models.packing import Packed, pack
from curate.scoring.memory import is_out_of_memory


@torch.inference_mode()
def hidden_alone(
    run: Callable[[Packed], Float[Tensor, "*layers tokens d_model"]], inputs: ModelInputs
) -> Float[Tensor, "*layers tokens d_model"]:
    """The hidden states of a text.

    It runs alone, so that weights do not depend on the batch size: which of two nearly equal tokens is among the K
    strongest may move a weight by any amount.

    Args:
        run: a model's forward pass.

    Raises:
        NonFinite, OutOfMemory: there are none that can be used; scoring quarantines the sample.
    """
    packed = pack([inputs])
    try:
        hidden = run(packed)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{len(packed):,} tokens do not fit into the device's memory") from error
    if not bool(hidden.isfinite().all()):
        raise NonFinite("hidden states are NaN or infinite at the hook layer")
    return hidden
