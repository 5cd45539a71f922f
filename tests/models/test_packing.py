"""What packing does to texts, whatever they are; what models make of packed texts is in test_families.py."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.models.inputs import ModelInputs
from curate.models.packing import FEWEST_SHARED, pack, packed_tokens

IMAGE = 9


@st.composite
def texts(draw):
    """Texts about a few images: at times BOS, an image of three tokens, and words of which many begin alike.

    A text model's have none of an image's tokens, and still may name it.
    """
    found = []
    for _ in range(draw(st.integers(1, 7))):
        image = draw(st.sampled_from((None, "a", "b")))
        n_common = draw(st.sampled_from((0, 1, FEWEST_SHARED - 1, FEWEST_SHARED, 40)))
        words = [1] * n_common + draw(st.lists(st.integers(1, 2), max_size=4))
        seen = image if draw(st.integers(0, 3)) else None
        begins = [0] if draw(st.integers(0, 3)) else []
        ids = torch.tensor([*begins, *([IMAGE] * 3 if seen else []), *words, 2])
        tensors = {"pixel_values": torch.full((1, 1), float(ord(seen)))} if seen else {}
        n_response = draw(st.integers(0, len(words)))
        found.append(ModelInputs(ids, ids == IMAGE, tensors, n_response, image))
    return found


@given(texts())
@settings(max_examples=500, deadline=None)
def test_each_text_is_in_the_sequence_once_and_whole(given_texts):
    packed = pack(given_texts)
    assert len(packed) == packed_tokens(given_texts) == sum(map(len, packed.segments))
    assert packed.n_responses == tuple(text.n_response for text in given_texts)
    for text, places in zip(given_texts, packed.places, strict=True):
        assert torch.equal(packed.input_ids[places], text.input_ids)
        assert torch.equal(packed.is_image[places], text.is_image)
        assert packed.position_ids[places].tolist() == list(range(len(text.input_ids)))
    # Segments follow one another, and every token is of one.
    stops = [0, *(segment.stop for segment in packed.segments)]
    assert [segment.start for segment in packed.segments] == stops[:-1]
    assert stops[-1] == len(packed)


@given(texts())
@settings(max_examples=500, deadline=None)
def test_tensors_are_in_the_order_of_their_images_tokens(given_texts):
    packed = pack(given_texts)
    roots = [segment for segment in packed.segments if not segment.before]
    owners = [given_texts[packed.ends.index(end)] for root in roots for end in packed.ends if end.path[0] is root]
    named = {owner.image for owner in owners if owner.tensors}
    seen = [float(row) for row in packed.tensors.get("pixel_values", [])]
    assert {chr(int(each)) for each in seen} == named
    assert int(packed.is_image.sum()) == 3 * len(seen)
    order = []
    for root in roots:
        if packed.is_image[root.tokens].any():
            order += [ord(next(t.image for t, e in zip(given_texts, packed.ends, strict=True) if e.path[0] is root))]
    assert seen == order


@given(texts())
@settings(max_examples=500, deadline=None)
def test_texts_share_all_but_short_beginnings_where_they_are_about_one_image(given_texts):
    packed = pack(given_texts)
    assert all(len(segment) > 0 for segment in packed.segments)
    for one, end in zip(given_texts, packed.ends, strict=True):
        for other, other_end in zip(given_texts, packed.ends, strict=True):
            if one is other:
                continue
            shared = [a for a, b in zip(end.path, other_end.path, strict=False) if a is b]
            alike = 0
            while alike < min(len(one.input_ids), len(other.input_ids)):
                if one.input_ids[alike] != other.input_ids[alike]:
                    break
                alike += 1
            image_end = int(one.is_image.nonzero()[-1]) + 1 if one.is_image.any() else 0
            if one.image is None or one.image != other.image or not image_end or alike < image_end:
                assert not shared
            else:
                assert alike - FEWEST_SHARED < sum(map(len, shared)) <= alike


def test_three_levels_of_sharing():
    """Two questions about an image, two responses to the first."""
    image, first, second = [0, *([IMAGE] * 3)], [1] * 20, [2] * 20
    rows = [[*image, *first, *([3] * 5)], [*image, *first, *([4] * 6)], [*image, *second]]
    made = [torch.tensor(row) for row in rows]
    packed = pack([ModelInputs(ids, ids == IMAGE, {}, 0, "a") for ids in made])
    assert [len(segment) for segment in packed.segments] == [4, 20, 20, 5, 6]
    assert [[len(segment) for segment in end.path] for end in packed.ends] == [[4, 20, 5], [4, 20, 6], [4, 20]]


def test_texts_of_one_image_that_differ_before_its_end_share_nothing():
    ids = [torch.tensor([n, IMAGE, IMAGE, 1]) for n in (1, 2)]
    packed = pack([ModelInputs(each, each == IMAGE, {"p": torch.ones(1, 1)}, 0, "a") for each in ids])
    assert len(packed) == 8
    assert len(packed.tensors["p"]) == 2


def test_three_questions_that_begin_alike_share_with_their_own_responses():
    """The third question parts from the others early, and still the first two share, and all share with their pairs."""
    image = [0, *([IMAGE] * 3)]
    questions = [[1, 1, 1, *([5] * 60)], [1, 1, 1, *([6] * 60)], [7] * 60]
    rows = [[*image, *question, *([said] * 9)] for question in questions for said in (3, 4)]
    made = [torch.tensor(row) for row in rows]
    packed = pack([ModelInputs(ids, ids == IMAGE, {}, 0, "a") for ids in made])
    assert len(packed) == 4 + 63 + 63 + 60 + 6 * 9


def test_deep_nesting_takes_no_time():
    """Dialogues about one image, each the beginning of the next."""
    ids = torch.tensor([0, IMAGE, *([1] * (FEWEST_SHARED * 60))])
    texts = [ids[: 2 + FEWEST_SHARED * turns] for turns in range(61)]
    packed = pack([ModelInputs(each, each == IMAGE, {}, 0, "a") for each in texts])
    assert len(packed) == len(ids)
    assert len({segment: None for end in packed.ends for segment in end.path}) == len(packed.segments) == 61
