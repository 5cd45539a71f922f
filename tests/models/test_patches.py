"""Where tokens look, against what the real processors make of an image; patches, against plain loops."""

import math
import random
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image

from curate import demo
from curate.models.families import inspect_model
from curate.models.patches import Box, Patches, View
from tests.models.small import MODELS, SIDE, write_llava

SPOTS = SIDE * SIDE  # of each image and size; all tokens of a model that sees one square
SEEING = [name for name in MODELS if name.startswith(("llava", "chameleon"))]
SIZES = [
    *[(28, 28), (56, 56), (64, 48), (48, 64), (112, 84), (84, 112), (100, 30), (30, 100), (37, 53), (53, 37)],
    *[(120, 40), (40, 120), (91, 90), (90, 91), (33, 33), (200, 150), (131, 77), (29, 113), (150, 51), (61, 203)],
]


def by_size(function):
    return pytest.mark.parametrize("size", SIZES, ids=[f"{width}x{height}" for width, height in SIZES])(function)


class Seeing:
    """A small model's builder, and its whole model in transformers."""

    builder: Any

    def __init__(self, name: str, folder: Path) -> None:
        written = {"demo": lambda _: demo.MODEL, "full": lambda path: write_llava(path, "llama", "full")}
        plain = MODELS["llava-llama"] if name in ("padded", "squeezed") else MODELS.get(name)
        self.name, info = name, inspect_model(str((plain or written[name])(folder)))
        self.builder = info.family.load_builder(info)
        whole: Any = info.family.load_whole(info, torch.float32, "cpu")
        self.model = whole.model.model
        processor = self.builder.processor.image_processor
        if name == "padded":
            processor.do_pad = True
        if name == "squeezed":
            processor.size = {"height": 7 * SIDE, "width": 7 * SIDE}

    def pixels(self, image):
        """What the processor makes of an image, [its pictures or tiles, colours, height, width]."""
        return self.builder.build(image, "What?", None).tensors["pixel_values"].double()

    def cells(self, image):
        """The mean colours of the patches of that, [pictures × rows × columns, colours]."""
        pixels = self.pixels(image)
        edge = pixels.shape[-1] // SIDE
        return (
            pixels.unflatten(2, (SIDE, edge)).unflatten(4, (SIDE, edge)).mean((3, 5)).permute(0, 2, 3, 1).flatten(0, 2)
        )

    def made_of(self, image):
        """Which of these patches each image token is made of; -1 for a row separator and the CLS token.

        Transformers' own function puts LLaVA-NeXT's in order; it is given their numbers in place of their features.
        """
        n = len(self.pixels(image))
        numbers = torch.arange(n * SIDE * SIDE, dtype=torch.float32).reshape(n, SIDE * SIDE, 1)
        if not hasattr(self.model, "pack_image_features"):
            return [-1] * (self.name == "full") + list(range(SIDE * SIDE))
        size = torch.tensor([[image.height, image.width]])
        packed, _ = self.model.pack_image_features([numbers], size, "default", image_newline=torch.tensor([-1.0]))
        return packed[0].flatten().int().tolist()


@pytest.fixture(scope="module", params=[*SEEING, "padded", "squeezed", "full", "demo"])
def seeing(request, tmp_path_factory):
    """A model of each family; `padded`, `squeezed` and `full` are other ways in which LLaVA's can see."""
    return Seeing(request.param, tmp_path_factory.mktemp(request.param))


def boxes(patches: Patches) -> dict[int, Box]:
    """The box of each token, by plain arithmetic."""
    found = {}
    for view in patches.views:
        left, top, right, bottom = view.box
        across, down = (right - left) / view.columns, (bottom - top) / view.rows
        for row in range(view.rows):
            for column in range(view.columns):
                token = view.first + row * view.stride + column
                x, y = left + column * across, top + row * down
                found[token] = Box(x, y, x + across, y + down)
    return found


def spot(size: tuple[int, int], box: Box) -> Image.Image | None:
    """A black image, white in the middle of a box, a third as wide and high; None where no pixel's centre is there."""
    across, down = (box.right - box.left) / 6, (box.bottom - box.top) / 6
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    rows, columns = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    white = (abs(rows - y) <= down)[:, None] & (abs(columns - x) <= across)
    return Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).convert("RGB") if white.any() else None


@by_size
def test_a_spot_where_a_token_looks_changes_most_what_that_token_is_made_of(seeing, size):
    black = Image.new("RGB", size)
    made_of, before, patches = seeing.made_of(black), seeing.cells(black), seeing.builder.patches(black)
    assert len(made_of) == int(seeing.builder.build(black, "What?", None).is_image.sum())
    found = boxes(patches)
    assert sorted(found) == [token for token, cell in enumerate(made_of) if cell >= 0], "separators look nowhere"
    assert patches.boxes(len(made_of)) == [
        pytest.approx(found[token], abs=1e-9) if token in found else None for token in range(len(made_of))
    ]
    tried, tokens = 0, random.Random(str(size)).sample(sorted(found), SPOTS)
    for token in tokens:
        box = found[token]
        image = spot(size, box)
        if image is None:
            continue
        tried += 1
        change = (seeing.cells(image) - before).sum(1)
        # The whole image and its tiles have a patch each that sees the spot.
        whole = made_of[token] < SIDE * SIDE
        first, others = (0, change[: SIDE * SIDE]) if whole else (SIDE * SIDE, change[SIDE * SIDE :])
        assert first + int(others.argmax()) == made_of[token], (token, box)
    assert tried > SPOTS / 3


@by_size
def test_the_middle_of_what_a_token_sees_is_the_middle_of_its_box(seeing, size):
    """Of an image whose colours are coordinates; so boxes are right to a fraction of a pixel, not to a patch."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    image = Image.fromarray(np.round(255 * np.stack([x, y, 0 * x], -1)).astype(np.uint8))
    black, white = (seeing.cells(Image.new("RGB", size, colour)) for colour in ("black", "white"))
    seen = (seeing.cells(image) - black) / (white - black)
    made_of = seeing.made_of(image)
    for token, box in boxes(seeing.builder.patches(image)).items():
        if min(box.left, box.top) < -1e-6 or box.right > width + 1e-6 or box.bottom > height + 1e-6:
            continue  # it sees padding, too
        middle = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
        found = (float(seen[made_of[token], 0]) * width, float(seen[made_of[token], 1]) * height)
        # Processors round sizes to whole pixels and colours to 256 levels.
        tolerance = (0.5 + width / 255, 0.5 + height / 255)
        assert all(abs(a - b) < c for a, b, c in zip(middle, found, tolerance, strict=True)), (token, box, found)


@by_size
def test_each_pixel_is_of_the_patch_that_its_centre_lies_in(seeing, size):
    patches = seeing.builder.patches(Image.new("RGB", size))
    left, top, right, bottom = patches.box
    found = patches.of_pixels()
    assert found.shape == (size[1], size[0])
    for y in range(size[1]):
        for x in range(size[0]):
            row = math.floor(round((y + 0.5 - top) * patches.rows / (bottom - top), 9))
            column = math.floor(round((x + 0.5 - left) * patches.columns / (right - left), 9))
            there = 0 <= row < patches.rows and 0 <= column < patches.columns
            assert found[y, x] == (row * patches.columns + column if there else -1), (x, y)


@by_size
def test_a_patch_is_the_mean_over_its_area_of_the_tokens_there_and_separators_say_nothing(seeing, size):
    image = Image.new("RGB", size)
    patches, made_of = seeing.builder.patches(image), seeing.made_of(image)
    values = torch.randn(len(made_of), 2, generator=torch.Generator().manual_seed(0))
    values[:, 1] = 3.25
    values[torch.tensor(made_of) < 0] = float("nan")
    found = patches.on_grid(values)
    tokens = boxes(patches)
    of_grid = boxes(Patches(size, patches.views[:1]))
    expected = []
    for patch in of_grid.values():
        parts = [(shared(patch, box), float(values[token, 0])) for token, box in tokens.items()]
        expected.append(sum(area * value for area, value in parts) / sum(area for area, _ in parts))
    assert found[..., 0].flatten().tolist() == pytest.approx(expected, abs=1e-9)
    assert found[..., 1].flatten().tolist() == pytest.approx([3.25] * len(expected))


def shared(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(0.0, across) * max(0.0, down)


def test_two_tokens_of_one_patch_count_alike():
    """As of a square image in LLaVA-NeXT, whose published sum over both ranks patches as their mean does."""
    box = Box(0, 0, 336, 336)
    patches = Patches((336, 336), (View(box, 24, 24, 0, 24), View(box, 24, 24, 576, 25)))
    values = torch.rand(1176, 3)
    high = torch.stack([values[576 + row * 25 : 576 + row * 25 + 24] for row in range(24)])
    assert torch.allclose(patches.on_grid(values), (values[:576].reshape(24, 24, 3) + high).double() / 2)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 24), st.integers(1, 24))
def test_patches_divide_the_pixels_evenly(width, height, rows, columns):
    view = View(Box(0, 0, width, height), rows, columns, 0, columns)
    of_pixels = Patches((width, height), (view,)).of_pixels()
    counts = torch.bincount(of_pixels.flatten(), minlength=rows * columns)
    assert int(of_pixels.min()) >= 0
    for index, n in enumerate(counts.tolist()):
        fewest, most = ((width // columns) * (height // rows), -(-width // columns) * -(-height // rows))
        assert fewest <= n <= most, index


def test_no_colour_is_nearer_to_nothing_for_the_model_than_the_mean_colour(seeing):
    def size(colour):
        return seeing.pixels(Image.new("RGB", (56, 56), tuple(colour))).abs().amax((0, 2, 3))

    mean = torch.tensor(seeing.builder.mean_colour())
    for other in (mean - 1, mean + 1):
        assert bool((size(mean.tolist()) <= size(other.tolist())).all())
