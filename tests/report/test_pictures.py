"""Pictures: nothing is stretched, text is kept whole, and what is in data draws nothing else."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from curate.interpret.explain import Explained, Explanation, explain
from curate.interpret.heat import Heat
from curate.interpret.lens import open_lens
from curate.interpret.run_features import RunFeature
from curate.models import ModelSpec
from curate.models.patches import Box, Patches, View
from curate.report import features as of_features
from curate.report.drawing import draw_heat, figure_of, shown, wrapped
from curate.report.explanation import draw_explanation
from curate.report.features import draw_card, draw_classes
from curate.sample import Sample
from curate.scoring.parameters import ScoringParameters

HOSTILE = "$x^2$ \\frac <script>alert(1)</script> \x1b[31m \u202e רשע 漢字 \U0001f600 \ud7ff " + "long" * 60


@given(tokens=st.lists(st.text(max_size=30)), columns=st.integers(2, 40))
def test_wrapping_keeps_every_character_and_no_line_is_too_long(tokens, columns):
    lines = wrapped(tokens, columns)
    for number, token in enumerate(tokens):
        pieces = [text for line in lines for of, _, text in line if of == number]
        assert "".join(pieces) == shown(token)
    for line in lines:
        at = 0
        for _, column, text in line:
            assert column == at
            at += sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
        # A single wide character may stand over the edge of a line of its own.
        assert at <= columns or len(line) == 1


@given(text=st.text())
def test_no_control_or_direction_character_is_drawn(text):
    assert len(shown(text)) == len(text)
    assert not any(unicodedata.category(each)[0] == "C" for each in shown(text) if each != "\N{REPLACEMENT CHARACTER}")


def test_heat_is_where_the_strongest_of_the_tokens_looks():
    """Against a loop over pixels: a coarse view of all, a fine one of the middle, with a separator after each row."""
    patches = Patches((30, 20), (View(Box(0, 0, 30, 20), 2, 3, 0, 3), View(Box(5, -4, 25, 24), 4, 4, 6, 5)))
    values = torch.rand(26, generator=torch.Generator().manual_seed(0))
    values[6 + 4 :: 5] = 9.0  # separators, which look at no place
    found = patches.strongest(values, 30, 20)
    for y in range(20):
        for x in range(30):
            seen = [values[int((y + 0.5) // 10) * 3 + int((x + 0.5) // 10)]]
            if 5 <= x + 0.5 < 25:
                seen.append(values[6 + int((y + 0.5 + 4) // 7) * 5 + int((x + 0.5 - 5) // 5)])
            assert found[y, x] == pytest.approx(float(max(seen)), abs=1e-6)
    assert torch.equal(patches.strongest(values, 60, 40)[::2, ::2], found)


def drawn_figures(monkeypatch) -> list[Figure]:
    figures: list[Figure] = []
    original = Figure.savefig

    def save(figure, *args, **kwargs):
        figures.append(figure)
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def stretched(figure: Figure, *sizes: tuple[int, int]) -> float:
    """By how much the most stretched picture differs from the nearest proportions among the images' sizes."""
    most = 1.0
    for axes in figure.axes:
        for image in axes.get_images():
            rows, columns = image.get_size()
            left, right, bottom, top = image.get_extent()
            box = axes.get_window_extent()
            # With equal aspect the picture keeps its extent's proportions, else it fills its axes.
            drawn = abs((right - left) / (bottom - top)) if axes.get_aspect() == 1.0 else box.width / box.height
            for ratio in (drawn, columns / rows):
                most = max(most, min(max(ratio * h / w, w / (ratio * h)) for w, h in sizes))
    return most


@pytest.fixture(scope="module")
def lens():
    return open_lens(ModelSpec(name="demo"), "demo", ScoringParameters(metrics=("cooccurrence",)), None)


def explained(lens, size, question="Describe the image.") -> Explained:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    sample = Sample("0" * 32, 0, question, Image.fromarray(pixels), "A red square.", "No.")
    return explain(lens, sample, "cooccurrence")


@pytest.mark.parametrize("size", [(112, 112), (900, 300), (90, 330)])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_explanations_are_drawn_unstretched(lens, monkeypatch, tmp_path, size, kind):
    figures = drawn_figures(monkeypatch)
    draw_explanation(tmp_path / f"why.{kind}", explained(lens, size), 3)
    assert (tmp_path / f"why.{kind}").stat().st_size > 10_000
    assert len(figures) == 1
    assert stretched(figures[0], size) < 1.02
    bounds = [axes.get_position() for axes in figures[0].axes]
    assert all(0 <= box.x0 < box.x1 <= 1.001 and -0.001 <= box.y0 < box.y1 <= 1 for box in bounds)


def test_hostile_text_is_drawn_as_it_is(lens, tmp_path):
    with_text = explained(lens, (112, 112), "What is $x^2$ \\frac{1}{0} <b>?")
    said: Explanation = with_text.explanation.model_copy(update={"question": HOSTILE})
    feature = said.features[0].model_copy(update={"label": HOSTILE})
    said = said.model_copy(update={"features": [feature, *said.features[1:]]})
    draw_explanation(tmp_path / "why.svg", replace(with_text, explanation=said), 2)
    assert "<script>" not in (tmp_path / "why.svg").read_text()
    card = RunFeature(feature=1, weight=None, text_peak=1.0, image_peak=0.0, label=HOSTILE, examples=[])
    draw_card(tmp_path / "card.png", card, [])
    draw_classes(tmp_path / "classes.png", HOSTILE, [(HOSTILE, [])])
    assert Image.open(tmp_path / "classes.png").height > 20


def test_cards_and_classes_are_drawn_unstretched(lens, monkeypatch, tmp_path):
    heats, sizes = [], ((112, 112), (900, 300), (90, 330))
    for size in sizes:
        found = explained(lens, size)
        heats.append(Heat(found.image, found.patches, found.activations[found.is_image][:, :1]))
    figures = drawn_figures(monkeypatch)
    card = RunFeature(feature=1, weight=0.5, text_peak=1.0, image_peak=2.0, label=None, examples=[])
    draw_card(tmp_path / "card.png", card, heats)
    draw_classes(tmp_path / "classes.png", "all", [("one", heats), ("two", heats[:1])])
    assert [stretched(figure, *sizes) < 1.02 for figure in figures] == [True, True]
    assert len(figures[0].axes) == 6


def test_a_large_photograph_makes_a_small_picture(tmp_path):
    image = Image.effect_noise((3000, 2000), 80).convert("RGB")
    patches = Patches(image.size, (View(Box(0, 0, 3000, 2000), 4, 4, 0, 4),))
    figure = figure_of(4, 4)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_heat(axes, image, patches, torch.rand(16), 1.0)
    assert max(axes.get_images()[0].get_size()) <= 500
    assert of_features._fitted(Heat(image, patches, torch.rand(16, 1)), 1.5) == (1.5, 1.0)
