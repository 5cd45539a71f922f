"""Scores of patches, against one token at a time in plain NumPy; ranks, where scores are equal."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from curate import demo
from curate.datasets.labelled import LabelledSpec, open_labelled
from curate.errors import NonFinite
from curate.interpret.patches.job import METHODS
from curate.interpret.patches.scores import patch_scores, ranked
from curate.models.packing import pack
from curate.models.patches import Box, Patches, View
from curate.sae import firing
from curate.sae.load import inspect_dictionary, load_dictionary
from tests import oracle
from tests.models.test_patches import boxes, shared
from tests.sae.folders import D_MODEL, D_SAE, configs, saved

DELTA = 1.0


def by_hand(z, is_image, patches, delta, weights):
    """Each patch's scores, its tokens weighed by the area that they share with it."""
    both = oracle.cooccurring(z, is_image, delta)
    image = z[is_image]
    of_token = {
        "l0": [np.sum(token > 0) for token in image],
        "l1": [np.sum(token) for token in image],
        "cooccurrence": [sum(token[f] > delta for f in both) for token in image],
        "cosine": [sum(weights[f] for f in both if token[f] > delta) for token in image],
    }
    tokens = boxes(patches)
    found = {method: [] for method in of_token}
    for patch in boxes(Patches(patches.size, patches.views[:1])).values():
        areas = {token: shared(patch, box) for token, box in tokens.items()}
        for method, values in of_token.items():
            found[method].append(sum(area * values[token] for token, area in areas.items()) / sum(areas.values()))
    return found


@pytest.mark.parametrize("delta", [0.0, DELTA])
def test_scores_are_those_of_all_activations_by_hand(demo_builder, demo_cut, demo_dictionary, delta):
    images = open_labelled(LabelledSpec())
    weights = torch.linspace(-1, 1, demo_dictionary.d_sae, dtype=torch.float64)
    sizes = set()
    for place in range(8):
        image = images.decode(place)
        inputs, patches = demo_builder.build(image, images.question(place), None), demo_builder.patches(image)
        hidden = demo_cut.hidden_states(pack([inputs]))
        found: Any = patch_scores(demo_dictionary, hidden, inputs.is_image, patches, delta, weights)
        z = oracle.encode(demo.SAE, hidden.double().numpy())
        expected = by_hand(z, inputs.is_image.numpy(), patches, delta, weights.numpy())
        assert tuple(found) == METHODS
        for method, values in expected.items():
            assert found[method].tolist() == pytest.approx(values, rel=1e-4, abs=1e-4), method
            assert len(set(found[method].tolist())) > 1
        assert not found["random"].any()
        sizes.add(image.size)
    assert len(sizes) > 2


@pytest.mark.parametrize("sae", list(configs())[:5], ids=lambda sae: sae.cfg.architecture())
@pytest.mark.parametrize("elements", [20, 1000])
def test_blocks_add_up_for_every_architecture(tmp_path, monkeypatch, sae, elements):
    dictionary = load_dictionary(inspect_dictionary(str(saved(tmp_path, sae))))
    view = View(Box(0, 0, 60, 40), 5, 6, 2, 7)  # two tokens before it, and a separator after each row
    patches, n = Patches((60, 40), (view,)), 2 + 5 * 7
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(n + 9, D_MODEL, generator=generator) * 3
    is_image = torch.zeros(n + 9, dtype=torch.bool)
    is_image[3 : 3 + n] = True
    weights = torch.rand(D_SAE, dtype=torch.float64, generator=generator)
    z = dictionary.encode(hidden).double().numpy()
    monkeypatch.setattr(firing, "BLOCK_ELEMENTS", {"cpu": elements})
    monkeypatch.setattr(firing, "TOPK_BLOCK_ELEMENTS", D_SAE * (elements // 20))
    monkeypatch.setattr(firing, "FEWEST_FEATURES", 7)
    monkeypatch.setattr(firing, "MOST_TOKENS", 11)
    found: Any = patch_scores(dictionary, hidden, is_image, patches, 2.0, weights)
    for method, values in by_hand(z, is_image.numpy(), patches, 2.0, weights.numpy()).items():
        assert found[method].tolist() == pytest.approx(values, rel=1e-4, abs=1e-4), method


def test_what_is_not_finite_is_refused(demo_dictionary):
    patches = Patches((4, 4), (View(Box(0, 0, 4, 4), 2, 2, 0, 2),))
    is_image = torch.tensor([False, True, True, True, True])
    weights = torch.zeros(demo_dictionary.d_sae, dtype=torch.float64)
    demo_dictionary = replace(demo_dictionary, weight=100 * demo_dictionary.weight)
    aligned = demo_dictionary.weight[:, 0].sign() * 3e38
    for value, what in ((torch.tensor(float("nan")), "hidden states"), (aligned, "activations")):
        hidden = torch.randn(5, demo_dictionary.weight.shape[0])
        hidden[2] = value
        with pytest.raises(NonFinite, match=what):
            patch_scores(demo_dictionary, hidden, is_image, patches, DELTA, weights)


def test_higher_scores_come_first_and_equal_ones_by_a_draw_of_their_own():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0, 0.0], dtype=torch.float64)
    found = ranked(scores, range(6), 0, "a.png", "l0")
    assert found == ranked(scores, range(6), 0, "a.png", "l0")
    assert (set(found[:3]), found[3:]) == ({1, 3, 4}, [2, 0, 5])
    assert ranked(scores, [5, 2, 0], 0, "a.png", "l0") == [2, 0, 5]
    level = torch.zeros(64, dtype=torch.float64)
    draws = {
        tuple(ranked(level, range(64), seed, image, method))
        for seed in (0, 1)
        for image in ("a", "b")
        for method in ("l0", "random")
    }
    assert len(draws) == 8


def test_no_place_is_more_likely_among_equals():
    level = torch.full((16,), 0.1, dtype=torch.float64)
    firsts = np.bincount([ranked(level, range(16), 0, str(image), "l0")[0] for image in range(3200)], minlength=16)
    # χ² of 15 degrees of freedom: 37.7 is passed by chance once in a thousand times.
    assert ((firsts - 200) ** 2 / 200).sum() < 37.7


@pytest.mark.parametrize("size", [(37, 53), (131, 77), (91, 90), (112, 56)])
def test_tokens_that_say_the_same_leave_no_order_to_places(demo_builder, size):
    """Means over areas differ in their last bits from place to place, which must decide nothing."""
    patches = demo_builder.patches(Image.new("RGB", size))
    n = max(int(view.tokens.max()) for view in patches.views) + 1
    scores = patches.on_grid(torch.full((n, 1), 10.7, dtype=torch.float64)).flatten()
    level = torch.zeros_like(scores)
    assert ranked(scores, range(16), 0, "a", "l1") == ranked(level, range(16), 0, "a", "l1")
