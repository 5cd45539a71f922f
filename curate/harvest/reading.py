"""Whether an SAE's activation scale is folded, measured on the first hidden states that a harvest gives."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from curate.errors import DataError
from curate.harvest.activations import Block, Chunk, Harvest, blocks, chunks
from curate.sae.dictionary import DictionaryInfo
from curate.sae.reading import MOST_TOKENS, Reading, measure_reading

READERS = 2
# A block has 16 rows. The first alone is enough where every row has an image and a response.
MOST_BLOCKS = 4


def all_chunks(harvest: Harvest, last: int | None = None) -> Iterator[tuple[Block, Chunk]]:
    """All that a harvest gives in one epoch, without first positions and BOS.

    Args:
        last: the block after the last; by default the whole epoch.
    """
    model, bos_token_id = harvest.load_model(), harvest.load_builder().bos_token_id
    for block in blocks(harvest, 0, READERS, harvest.n_blocks if last is None else min(last, harvest.n_blocks)):
        for chunk in chunks(harvest, model, block, bos_token_id):
            yield block, chunk


@torch.inference_mode()
def first_states(harvest: Harvest) -> tuple[Float[Tensor, "tokens d_model"], Bool[Tensor, " tokens"]]:
    """Hidden states of the first blocks, and which of them are image tokens.

    It ends after the block that makes text and image tokens enough to measure on, or after `MOST_BLOCKS`.

    Raises:
        DataError: no row of them could be used.
    """
    hidden: list[Tensor] = []
    image: list[Tensor] = []
    reasons: list[str] = []
    for _, chunk in all_chunks(harvest, MOST_BLOCKS):
        hidden.append(chunk.hidden)
        image.append(chunk.is_image)
        reasons += [f"{row.error}: {row.reason}" for row in chunk.left_out]
        if chunk.last:
            n_image, n_all = sum(int(part.sum()) for part in image), sum(map(len, image))
            if min(n_image, n_all - n_image) >= MOST_TOKENS:
                break
    if not sum(map(len, image)):
        why = f", such as: {reasons[0]}" if reasons else ""
        raise DataError(f"none of the first rows of {harvest.corpus.name} gives {harvest.model.name} a token{why}")
    return torch.cat(hidden), torch.cat(image)


def measured(info: DictionaryInfo, harvest: Harvest) -> Reading:
    """Whether an SAE's scale is folded, on a harvest at its hook layer.

    Raises:
        ConfigurationError: it cannot be told.
        DataError: there is nothing to tell it by.
    """
    return measure_reading(info, *first_states(harvest))
