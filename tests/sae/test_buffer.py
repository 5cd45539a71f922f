"""The buffer against sae_lens's own generator, and against itself, cut off and restored."""

import random

import pytest
import torch
from sae_lens.training.mixing_buffer import mixing_buffer

from curate.sae.buffer import MixingBuffer


def chunks(seed: int, count: int = 40) -> list[torch.Tensor]:
    """Chunks of many lengths, each token its own number."""
    rng, first, made = random.Random(seed), 0, []
    for _ in range(count):
        length = rng.choice([0, 1, 7, 30, 64])
        made.append(torch.arange(first, first + length, dtype=torch.float32)[:, None])
        first += length
    return made


def served(buffer: MixingBuffer, pieces: list[torch.Tensor]) -> list[torch.Tensor]:
    batches = []
    for piece in pieces:
        buffer.add(piece)
        while buffer.ready:
            batches.append(buffer.take())
    return batches


@pytest.mark.parametrize(("size", "batch"), [(64, 16), (100, 16), (33, 16), (256, 8)])
def test_batches_are_those_of_sae_lens(size, batch):
    torch.manual_seed(5)
    expected = list(mixing_buffer(size, batch, iter(chunks(1))))
    torch.manual_seed(5)
    batches = served(MixingBuffer(size, batch, torch.default_generator), chunks(1))
    # At its end the generator also serves, unmixed, what it kept back.
    assert 0 < len(batches) <= len(expected)
    assert all(torch.equal(*pair) for pair in zip(batches, expected, strict=False))
    kept = int(size * 0.5) // batch + 64 // batch + 1
    assert len(expected) - len(batches) <= kept + 64 // batch


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_restored_buffer_serves_what_the_undisturbed_one_does(cut):
    pieces = chunks(2)
    whole = served(MixingBuffer(64, 16, torch.Generator().manual_seed(3)), pieces)
    first = MixingBuffer(64, 16, torch.Generator().manual_seed(3))
    batches = served(first, pieces[:cut])
    # Cut in the midst of serving, too.
    first.add(pieces[cut])
    if first.ready:
        batches.append(first.take())
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second = MixingBuffer(64, 16, torch.Generator())
    second.restore(state, "cpu")
    while second.ready:
        batches.append(second.take())
    batches += served(second, pieces[cut + 1 :])
    assert len(batches) == len(whole)
    assert all(torch.equal(*pair) for pair in zip(batches, whole, strict=True))


def test_no_token_is_served_twice_and_neighbours_are_parted():
    pieces = [torch.arange(start, start + 32, dtype=torch.float32)[:, None] for start in range(0, 32 * 200, 32)]
    batches = served(MixingBuffer(512, 32, torch.Generator().manual_seed(0)), pieces)
    tokens = torch.cat(batches).flatten()
    assert len(tokens.unique()) == len(tokens)
    assert len(tokens) > 32 * 200 - 512
    spread = torch.stack([batch.std() for batch in batches])
    assert spread.min() > 32  # of neighbours it would be 9.4
