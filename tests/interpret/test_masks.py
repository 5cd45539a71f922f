"""Masks, pixel by pixel, against arithmetic in whole numbers and fractions that shares nothing with curate."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image

from curate.interpret.patches.masks import mask, masked_pixels, n_kept, patches_with_pixels
from curate.models.families import inspect_model
from curate.models.patches import Box, Patches, View
from tests.models.small import MODELS, SIDE, picture
from tests.models.test_patches import by_size

COLOUR = (1, 2, 3)


def independent_patch(kind: str, size: tuple[int, int], x: int, y: int) -> int:
    """The patch of a pixel: of the whole image squeezed into a square, or scaled by its shorter edge and cropped."""
    place = []
    for pixel, length in ((y, size[1]), (x, size[0])):
        centre = Fraction(2 * pixel + 1, 2)
        if kind == "llava_next":
            cell = centre * SIDE / length
        else:
            edge = SIDE * (7 if kind == "llava" else 4)
            scaled = int(edge * length / min(size))
            cell = (centre * scaled / length - (scaled - edge) // 2) * SIDE / edge
        place.append(math.floor(cell))
    return place[0] * SIDE + place[1] if all(0 <= cell < SIDE for cell in place) else -1


@pytest.fixture(scope="module", params=["llava_next-mistral", "llava-llama", "chameleon"])
def builder(request, tmp_path_factory):
    info = inspect_model(str(MODELS[request.param](tmp_path_factory.mktemp(request.param))))
    return request.param.split("-")[0], info.family.load_builder(info)


@by_size
def test_every_pixel_is_kept_masked_or_unseen_as_its_patch_is(builder, size):
    kind, of_model = builder
    image = picture(*size)
    patches = of_model.patches(image)
    kept = {2, 3, 7, 8, 13}
    assert patches_with_pixels(patches) == list(range(SIDE * SIDE))
    found = mask(image, masked_pixels(patches, kept), COLOUR)
    assert (found.mode, found.size) == ("RGB", size)
    before, after = (np.array(each).tolist() for each in (image, found))
    for y in range(size[1]):
        for x in range(size[0]):
            patch = independent_patch(kind, size, x, y)
            assert after[y][x] == (before[y][x] if patch in kept or patch == -1 else list(COLOUR)), (x, y)
    everything = mask(image, masked_pixels(patches, range(SIDE * SIDE)), COLOUR)
    assert everything.tobytes() == image.tobytes()


def test_patches_over_padding_or_without_a_pixel_are_not_chosen_among():
    padded = Patches((60, 30), (View(Box(0, -15, 60, 45), 4, 4, 0, 4),))
    assert patches_with_pixels(padded) == list(range(4, 12))
    few = Patches((2, 2), (View(Box(0, 0, 2, 2), 4, 4, 0, 4),))
    assert patches_with_pixels(few) == [5, 7, 13, 15]
    pixels = masked_pixels(few, [5, 15])
    assert pixels.tolist() == [[False, True], [True, False]]


def test_what_the_model_does_not_see_stays():
    patches = Patches((6, 2), (View(Box(2, 0, 4, 2), 1, 1, 0, 1),))
    assert masked_pixels(patches, []).tolist() == [[False, False, True, True, False, False]] * 2
    found = np.array(mask(Image.new("RGB", (6, 2), "white"), masked_pixels(patches, []), COLOUR))
    assert found[:, 2:4].tolist() == [[list(COLOUR)] * 2] * 2
    assert bool((found[:, [0, 1, 4, 5]] == 255).all())


@given(st.integers(1, 99), st.integers(1, 3000))
def test_halves_are_rounded_up_and_one_patch_is_always_left(percent, n):
    found = n_kept(percent / 100, n)
    assert found == max(1, math.floor(Fraction(percent, 100) * n + Fraction(1, 2)))
    assert 1 <= found <= n


def test_more_kept_is_less_masked():
    patches = Patches((50, 40), (View(Box(0, 0, 50, 40), 4, 5, 0, 5),))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    counts = [int(masked_pixels(patches, order[: n_kept(ratio, 20)]).sum()) for ratio in (0.25, 0.5, 0.75)]
    assert counts == [1500, 1000, 500]
