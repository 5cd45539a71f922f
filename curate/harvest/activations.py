"""Hidden states of a corpus, block by block, in an order that a seed decides."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import local

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from curate.datasets.documents import Corpus
from curate.errors import NonFinite
from curate.harvest.inputs import model_inputs
from curate.manifest.rows import QuarantineRow
from curate.models.family import CutModel, InputBuilder, ModelInfo
from curate.models.inputs import ModelInputs
from curate.models.packing import pack
from curate.scoring.prepare import quarantined, token_batches

BLOCK_ROWS = 16
Place = tuple[int, int]


@dataclass(frozen=True)
class Harvest:
    """What is harvested and how. Cheap to pickle, so that any worker can make any block.

    Attributes:
        model: its `context` bounds the inputs.
        batch_size: tokens of a forward pass.
        image_share: the share of image tokens among those kept of each forward pass; None keeps all.
        seed: of the order of blocks, and of which tokens are kept.
    """

    corpus: Corpus
    model: ModelInfo
    hook_layer: int
    dtype: torch.dtype
    device: str
    batch_size: int
    image_share: float | None = None
    seed: int = 0

    @property
    def n_blocks(self) -> int:
        """Blocks of one epoch."""
        return -(-len(self.corpus) // BLOCK_ROWS)

    def load_builder(self) -> InputBuilder:
        """Tokenizer and image processor."""
        return self.model.family.load_builder(self.model)

    def load_model(self) -> CutModel:
        """The model up to its hook layer."""
        return self.model.family.load_model(self.model, self.hook_layer, self.dtype, self.device)


@dataclass(frozen=True)
class Piece:
    """A row of the corpus as its model takes it, or a part of one that is too long."""

    source_row: int
    inputs: ModelInputs

    def __len__(self) -> int:
        """Its tokens."""
        return len(self.inputs.input_ids)


@dataclass(frozen=True)
class Block:
    """Neighbouring rows of the corpus; `ordinal` counts blocks over all epochs."""

    ordinal: int
    pieces: tuple[Piece, ...]
    left_out: tuple[QuarantineRow, ...]


@dataclass(frozen=True)
class Chunk:
    """The tokens of one forward pass, those never learned from left out.

    Attributes:
        place: the block's ordinal, and which of its forward passes this is.
        last: whether it is the block's last.
        left_out: rows of the block without hidden states, with its last chunk.
    """

    hidden: Float[Tensor, "tokens d_model"]
    is_image: Bool[Tensor, " tokens"]
    place: Place
    last: bool
    left_out: tuple[QuarantineRow, ...] = ()


def read_block(harvest: Harvest, ordinal: int, builder: InputBuilder) -> Block:
    """Read the rows of a block and build their inputs."""
    epoch, position = divmod(ordinal, harvest.n_blocks)
    first = int(_order(harvest.n_blocks, harvest.seed, epoch)[position]) * BLOCK_ROWS
    rows = range(first, min(first + BLOCK_ROWS, len(harvest.corpus)))
    found = [(item[0], each) for item in harvest.corpus.read(rows) for each in model_inputs([item], builder)]
    pieces = tuple(Piece(row, each) for row, each in found if isinstance(each, ModelInputs))
    return Block(ordinal, pieces, tuple(each for _, each in found if isinstance(each, QuarantineRow)))


@lru_cache(maxsize=2)
def _order(n_blocks: int, seed: int, epoch: int) -> Int[Tensor, " blocks"]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(n_blocks, generator=generator)


def blocks(harvest: Harvest, first: int, workers: int, last: int | None = None) -> Iterator[Block]:
    """Blocks from an ordinal on, made ahead by threads; decoding and tokenizing leave Python's lock free.

    Args:
        last: the ordinal after the last; by default the blocks never end.
    """
    own = local()

    def make(ordinal: int) -> Block:
        if not hasattr(own, "builder"):  # tokenizers may not be shared
            own.builder = harvest.load_builder()
        return read_block(harvest, ordinal, own.builder)

    pool = ThreadPoolExecutor(workers)
    try:
        pending: deque[Future[Block]] = deque()
        ordinals = itertools.count(first) if last is None else iter(range(first, last))
        for ordinal in ordinals:
            pending.append(pool.submit(make, ordinal))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def chunks(harvest: Harvest, model: CutModel, block: Block, bos_token_id: int | None) -> Iterator[Chunk]:
    """The hidden states of a block. Batches are formed inside it, so that they do not depend on where a run began."""
    left_out = list(block.left_out)
    passes = list(token_batches(block.pieces, harvest.batch_size))
    empty = torch.zeros(0, harvest.model.d_model, dtype=harvest.dtype, device=harvest.device)
    if not passes:
        yield Chunk(empty, empty[:, 0].bool(), (block.ordinal, 0), True, tuple(left_out))
    for number, batch in enumerate(passes):
        hidden, images = [empty], [torch.zeros(0, dtype=torch.bool)]
        packed = pack([piece.inputs for piece in batch])
        run = model.hidden_states(packed)
        for piece, places in zip(batch, packed.places, strict=True):
            states = run[places.to(run.device)]
            if not bool(states.isfinite().all()):
                error = NonFinite("hidden states are NaN or infinite at the hook layer")
                left_out.append(quarantined(piece.source_row, error))
                continue
            learned = learned_from(piece.inputs, bos_token_id)
            hidden.append(states[learned.to(states.device)])
            images.append(piece.inputs.is_image[learned])
        tokens, is_image = torch.cat(hidden), torch.cat(images)
        if harvest.image_share is not None:
            kept = _shared(is_image, harvest.image_share, harvest.seed, block.ordinal, number)
            tokens, is_image = tokens[kept.to(tokens.device)], is_image[kept]
        last = number == len(passes) - 1
        yield Chunk(tokens, is_image, (block.ordinal, number), last, tuple(left_out) if last else ())


def learned_from(inputs: ModelInputs, bos_token_id: int | None) -> Bool[Tensor, " tokens"]:
    """All positions but the first, whose hidden state is the same in every sample and huge, and but any BOS."""
    learned = torch.ones(len(inputs.input_ids), dtype=torch.bool)
    if bos_token_id is not None:
        learned &= inputs.input_ids != bos_token_id
    learned[0] = False
    return learned


def _shared(is_image: Bool[Tensor, " tokens"], share: float, *seed: int) -> Bool[Tensor, " tokens"]:
    """As many tokens of both modalities as make up the share, drawn with a seed."""
    n_image, n_text = int(is_image.sum()), int((~is_image).sum())
    wanted = {
        True: n_image if share == 1 else min(n_image, round(n_text * share / (1 - share))),
        False: n_text if share == 0 else min(n_text, round(n_image * (1 - share) / share)),
    }
    generator = torch.Generator().manual_seed(hash(seed) % 2**63)
    kept = torch.zeros_like(is_image)
    for modality, count in wanted.items():
        there = (is_image == modality).nonzero().flatten()
        kept[there[torch.randperm(len(there), generator=generator)[:count]]] = True
    return kept
