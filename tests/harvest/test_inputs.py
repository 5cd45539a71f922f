"""Documents as inputs: nothing of a long one is lost, and what cannot be used is said with its row."""

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from curate.datasets import DatasetSpec
from curate.datasets.documents import Document, open_corpus
from curate.errors import MissingImage
from curate.harvest.activations import BLOCK_ROWS, Harvest, blocks, chunks, learned_from, read_block
from curate.harvest.inputs import _halves, model_inputs
from curate.manifest.rows import QuarantineRow
from curate.models.inputs import ModelInputs
from curate.models.packing import pack

PICTURE = Image.new("RGB", (56, 56), "red")


@pytest.fixture(scope="module")
def small_builder(demo_info):
    """Of a model that takes no more than 120 tokens."""
    return demo_info.family.load_builder(replace(demo_info, context=120))


def texts(builder, inputs: list[ModelInputs]) -> str:
    """What the text tokens spell, all inputs one after another."""
    tokenizer = builder.processor.tokenizer
    kept = [each.input_ids[~each.is_image & (each.input_ids != tokenizer.bos_token_id)] for each in inputs]
    return tokenizer.decode(torch.cat(kept))


def test_a_long_document_is_cut_and_nothing_of_it_is_lost(small_builder):
    rng = random.Random(0)
    words = " ".join(rng.choice(["the", "red", "circle", "is", "above", "nothing"]) for _ in range(700))
    parts = (words, PICTURE, "in the middle", PICTURE, words)
    found = list(model_inputs([(7, Document(7, parts))], small_builder))
    assert len(found) > 10
    assert all(isinstance(each, ModelInputs) and len(each.input_ids) <= 120 for each in found)
    assert texts(small_builder, found) == f"{words}in the middle{words}"
    assert sum(int(each.is_image.sum()) for each in found) == 2 * 88
    # Between words, where there is a space to cut at.
    pieces = [texts(small_builder, [each]) for each in found]
    assert all(
        piece.strip().split(" ")[-1] in ("the", "red", "circle", "is", "above", "nothing", "middle")
        for piece in pieces
        if piece
    )


@pytest.mark.parametrize("text", [" a", "  a", " ab", "a b", " 😀", "ab ", " a ", "    a"])
def test_whatever_is_halved_gets_shorter(text):
    first, second = _halves([text])
    assert first[0] + second[0] == text
    assert 0 < len(first[0]) < len(text)


def test_neighbouring_texts_are_paragraphs_and_blank_ones_are_none(small_builder):
    (inputs,) = model_inputs([(0, Document(0, ("one", " \n", "two", PICTURE, "three")))], small_builder)
    assert isinstance(inputs, ModelInputs)
    assert texts(small_builder, [inputs]) == "one\n\ntwothree"


def test_rows_that_cannot_be_used_say_so(small_builder):
    rows = [(3, MissingImage("no image")), (4, Document(4, ("spells </s> out",))), (5, Document(5, ("fine",)))]
    missing, reserved, fine = model_inputs(rows, small_builder)
    assert isinstance(missing, QuarantineRow)
    assert (missing.source_row, missing.error) == (3, "MissingImage")
    assert isinstance(reserved, QuarantineRow)
    assert (reserved.source_row, reserved.error) == (4, "ReservedToken")
    assert isinstance(fine, ModelInputs)


@pytest.fixture(scope="module")
def harvest(demo_info) -> Harvest:
    corpus = open_corpus(DatasetSpec(limit=5 * BLOCK_ROWS + 3))
    return Harvest(corpus, demo_info, 2, torch.float32, "cpu", batch_size=700, seed=4)


def test_every_epoch_has_every_row_once_in_an_order_of_its_own(harvest, demo_builder):
    orders = []
    for epoch in range(3):
        ordinals = range(epoch * harvest.n_blocks, (epoch + 1) * harvest.n_blocks)
        made = [read_block(harvest, ordinal, demo_builder) for ordinal in ordinals]
        rows = [sorted(piece.source_row for piece in block.pieces) for block in made]
        assert sorted(row for block in rows for row in block) == list(range(len(harvest.corpus)))
        orders.append([block[0] for block in rows])
    assert len({tuple(order) for order in orders}) == 3


def test_chunks_hold_each_learned_token_once_with_its_modality(harvest, demo_builder, demo_cut):
    passes = []
    for block in blocks(harvest, 2, workers=2, last=5):
        expected, images = [], []
        for piece in block.pieces:
            hidden = demo_cut.hidden_states(pack([piece.inputs]))
            rest = piece.inputs.input_ids[1:] != demo_builder.bos_token_id
            expected.append(hidden[1:][rest])
            images.append(piece.inputs.is_image[1:][rest])
        made = list(chunks(harvest, demo_cut, block, demo_builder.bos_token_id))
        passes.append(len(made))
        assert [chunk.last for chunk in made] == [False] * (len(made) - 1) + [True]
        torch.testing.assert_close(torch.cat([c.hidden for c in made]), torch.cat(expected), atol=2e-5, rtol=1e-4)
        assert torch.equal(torch.cat([chunk.is_image for chunk in made]), torch.cat(images))
    assert max(passes) > 2


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.9, 1])
def test_the_share_of_image_tokens_is_what_is_asked_for(harvest, demo_builder, demo_cut, share):
    block = read_block(harvest, 1, demo_builder)
    made = list(chunks(replace(harvest, image_share=share), demo_cut, block, demo_builder.bos_token_id))
    again = list(chunks(replace(harvest, image_share=share), demo_cut, block, demo_builder.bos_token_id))
    for chunk, other in zip(made, again, strict=True):
        assert len(chunk.hidden) == len(chunk.is_image) > 20
        assert chunk.is_image.float().mean().item() == pytest.approx(share, abs=1 / len(chunk.is_image))
        assert torch.equal(chunk.hidden, other.hidden)


def test_first_positions_and_bos_are_never_learned_from():
    ids = torch.tensor([5, 9, 1, 7])
    inputs = ModelInputs(ids, torch.zeros(4, dtype=torch.bool), {})
    assert learned_from(inputs, 1).tolist() == [False, True, False, True]
    assert learned_from(inputs, None).tolist() == [False, True, True, True]
