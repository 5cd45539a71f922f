"""The arithmetic of edits against sae_lens's decoder, and against hidden states caught in the demo model."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sae_lens import SAE
from safetensors.torch import load_file

from curate import demo
from curate.interpret.steer.edits import rotated, steered
from curate.interpret.steer.job import Mode, Positions
from curate.models.packing import pack
from curate.sae import firing
from curate.sae.decoder import load_decoder
from curate.sae.firing import activations_of
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae.folders import D_MODEL, D_SAE, HIDDEN, configs, edit, saved
from tests.sae.test_decoder import of

FEATURES = (3, 17, 40)
LEVELS = torch.tensor([0.7, -1.2, 2.0])
IS_IMAGE = torch.arange(len(HIDDEN)) % 3 == 1
TOKENS: dict[Positions, torch.Tensor] = {
    "all": torch.ones(len(HIDDEN), dtype=torch.bool),
    "image": IS_IMAGE,
    "text": ~IS_IMAGE,
}


@pytest.fixture
def loaded(tmp_path):
    """A loader of a dictionary's two halves."""

    def load(sae):
        info = inspect_dictionary(str(saved(tmp_path, sae)))
        return load_dictionary(info), load_decoder(info), SAE.load_from_disk(tmp_path)

    return load


@torch.no_grad()
def decoded(sae, z):
    sae.encode(HIDDEN)  # by whose norms it decodes what comes next
    return sae.decode(z)


@pytest.mark.parametrize("sae", configs(), ids=of)
def test_an_edit_moves_hidden_states_as_sae_lens_decodes_other_activations(loaded, sae):
    """By the difference of two reconstructions, in which the bias and all other features cancel."""
    dictionary, decoder, theirs = loaded(sae)
    z = theirs.encode(HIDDEN).detach()
    own = z[:, list(FEATURES)]
    assert (own > 0).any()
    assert (own == 0).any()
    wanted: dict[Mode, torch.Tensor] = {
        "add": own + LEVELS,
        "clamp": LEVELS.expand_as(own),
        "ablate": torch.zeros_like(own),
    }
    for mode, activations in wanted.items():
        other = z.clone()
        other[:, list(FEATURES)] = activations
        moved = HIDDEN + decoded(theirs, other) - decoded(theirs, z)
        for positions, tokens in TOKENS.items():
            rows = decoder.weight[list(FEATURES)]
            found = steered(dictionary, decoder, FEATURES, rows, mode, LEVELS, positions)(HIDDEN, IS_IMAGE)
            torch.testing.assert_close(found[tokens], moved[tokens], atol=3e-4, rtol=1e-4)
            assert torch.equal(found[~tokens], HIDDEN[~tokens])
            assert not torch.allclose(found[tokens], HIDDEN[tokens])


@pytest.mark.parametrize("sae", list(configs())[:5], ids=of)
def test_with_an_unfolded_scale_an_edit_is_in_the_hidden_states_own_units(tmp_path, sae):
    folder = saved(tmp_path, sae)
    name = edit(folder, normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    info, plain = inspect_dictionary(name), SAE.load_from_disk(folder)
    decoder = load_decoder(info)
    rows = decoder.weight[list(FEATURES)]
    found = steered(load_dictionary(info), decoder, FEATURES, rows, "clamp", LEVELS, "all")(HIDDEN, IS_IMAGE)
    z = plain.encode(HIDDEN * 0.25).detach()
    other = z.clone()
    other[:, list(FEATURES)] = LEVELS
    with torch.no_grad():
        expected = HIDDEN + (plain.decode(other) - plain.decode(z)) / 0.25
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("sae", list(configs()), ids=of)
def test_activations_of_some_features_are_those_of_all(loaded, sae, monkeypatch):
    monkeypatch.setattr(firing, "TOPK_BLOCK_ELEMENTS", 7 * D_SAE)  # blocks of seven tokens
    dictionary, *_ = loaded(sae)
    torch.testing.assert_close(
        activations_of(dictionary, HIDDEN, FEATURES), dictionary.encode(HIDDEN)[:, list(FEATURES)]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sae", list(configs())[::5], ids=of)
def test_adding_nothing_changes_no_bit_in_any_precision(loaded, sae, dtype):
    dictionary, decoder, _ = loaded(sae)
    hidden = HIDDEN.to(dtype)
    rows = decoder.weight[list(FEATURES)]
    found = steered(dictionary, decoder, FEATURES, rows, "add", torch.zeros(3), "all")(hidden, IS_IMAGE)
    assert found.dtype == dtype
    assert torch.equal(found, hidden)
    assert found.data_ptr() != hidden.data_ptr()
    more = steered(dictionary, decoder, FEATURES, rows, "add", LEVELS, "all")(hidden, IS_IMAGE)
    assert more.dtype == dtype
    assert not torch.equal(more, hidden)


DIRECTIONS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(n, 24), st.integers(0, 2**31), st.text(max_size=5))
)


@given(DIRECTIONS)
@settings(max_examples=60)
def test_a_rotation_keeps_norms_and_angles(drawn):
    n, d_model, seed, name = drawn
    directions = (
        torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, n + 1)[:, None]
    )
    turned = rotated(directions, name)
    assert torch.equal(turned, rotated(directions, name))
    torch.testing.assert_close(turned @ turned.T, directions @ directions.T, atol=1e-3, rtol=1e-4)


def test_features_that_point_the_same_way_still_do_once_rotated():
    directions = torch.randn(1, D_MODEL).repeat(2, 1) * torch.tensor([[1.0], [3.0]])
    turned = rotated(directions, "same")
    torch.testing.assert_close(3 * turned[0], turned[1])


def test_random_directions_point_everywhere_alike():
    """Coordinates of a uniform direction in d dimensions have mean 0 and variance 1 / d, whatever is rotated."""
    direction = torch.zeros(1, 8)
    direction[0, 0] = 2.0
    turned = torch.cat([rotated(direction, str(n)) for n in range(4000)]).numpy() / 2
    assert np.abs(turned.mean(0)).max() < 5 * (1 / 8 / 4000) ** 0.5
    assert np.allclose(turned.T @ turned / 4000, np.eye(8) / 8, atol=0.012)


def test_what_the_next_block_is_given_is_the_arithmetic(demo_info, demo_prepared, demo_dictionary):
    """Caught before the block above the hook layer, in transformers' own model, by a hook of this test's own."""
    info = inspect_dictionary(str(demo.SAE))
    decoder, whole = load_decoder(info), demo_info.family.load_whole(demo_info, torch.float32, "cpu")
    inputs, layer = demo_prepared[0].inputs, demo.HOOK_LAYER
    hidden = whole.read(pack([inputs]), layer).hidden
    feature = int(demo_dictionary.encode(hidden)[inputs.is_image].sum(0).argmax())
    caught = []

    def catch(_module, args, kwargs):
        caught.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    blocks = whole.model.model.language_model.layers
    handle = blocks[layer + 1].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        whole.logits(inputs)
        rows = decoder.weight[[feature]]
        for mode in ("add", "clamp", "ablate"):
            levels = torch.tensor([-2.5])
            whole.logits(inputs, layer, steered(demo_dictionary, decoder, [feature], rows, mode, levels, "image"))
    finally:
        handle.remove()
    plain, *edited = (each.numpy().astype(np.float64) for each in caught)
    weights = {
        name: tensor.numpy().astype(np.float64)
        for name, tensor in load_file(info.path / "sae_weights.safetensors").items()
    }
    pre = (plain - weights["b_dec"]) @ weights["W_enc"][:, feature] + weights["b_enc"][feature]
    z = np.where(pre > weights["threshold"][feature], np.maximum(pre, 0), 0)
    assert (z > 0).any()
    coefficients = {"add": np.full_like(z, -2.5), "clamp": -2.5 - z, "ablate": -z}
    image = inputs.is_image.numpy()
    for found, c in zip(edited, coefficients.values(), strict=True):
        expected = plain + np.where(image, c, 0)[:, None] * weights["W_dec"][feature]
        np.testing.assert_allclose(found, expected, atol=2e-4)
