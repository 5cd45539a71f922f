"""Features' firing, reduced block by block, against all activations at once, which test_dictionary.py has judged."""

from dataclasses import replace

import pytest
import torch

from curate.sae import firing
from curate.sae.firing import measure_firing
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae.folders import D_SAE, HIDDEN, configs, saved


@pytest.fixture(params=[(20, 70), (1000, 70), (10**6, 10**6)], ids=["tiny blocks", "small blocks", "one block"])
def block_size(request, monkeypatch):
    """Blocks of a few features or tokens, of some, and of all at once."""
    elements, tokens = request.param
    monkeypatch.setattr(firing, "BLOCK_ELEMENTS", {"cpu": elements})
    monkeypatch.setattr(firing, "TOPK_BLOCK_ELEMENTS", D_SAE * max(1, elements // 100))
    monkeypatch.setattr(firing, "MOST_TOKENS", tokens)
    monkeypatch.setattr(firing, "FEWEST_FEATURES", 7)
    return elements


def of_unequal_features(folder, sae):
    """Its dictionary, with features of all sizes, so that one taken for another shows."""
    dictionary = load_dictionary(inspect_dictionary(str(saved(folder, sae))))
    size = torch.logspace(-2, 1, dictionary.d_sae)
    found = {"weight": dictionary.weight * size, "bias": dictionary.bias * size}
    for name in ("threshold", "magnitude_scale", "magnitude_shift"):
        if (value := getattr(dictionary, name)) is not None:
            found[name] = value * size
    return replace(dictionary, **found)


@pytest.mark.parametrize("sae", configs(), ids=lambda sae: f"{sae.cfg.architecture()}-{sae.cfg.normalize_activations}")
def test_blocks_reduce_to_what_all_activations_at_once_do(tmp_path, block_size, sae):
    dictionary = of_unequal_features(tmp_path, sae)
    n_blocks = len(list(firing.blocks(dictionary, len(HIDDEN))))
    assert n_blocks == 1 if block_size == 10**6 else n_blocks >= 10
    for tokens, uncounted in ((HIDDEN, 0), (HIDDEN, 1), (HIDDEN, 75), (HIDDEN[:1], 1)):
        pre = dictionary.affine(dictionary.normalized(tokens))
        z = dictionary.activations(pre)
        fired = measure_firing(dictionary, tokens, uncounted)
        torch.testing.assert_close(fired.peak, z.amax(0), atol=1e-4, rtol=1e-4)
        assert int(fired.n_active) == int((z[uncounted:] > 0).sum())
        assert float(fired.noise) == pytest.approx(torch.finfo(torch.float32).eps * float(pre.abs().max()), rel=1e-4)


@pytest.mark.parametrize("sae", list(configs())[:4], ids=lambda sae: sae.cfg.architecture())
def test_what_noise_may_switch_is_counted_but_for_uncounted_tokens(tmp_path, block_size, sae):
    """With noise as large as some pre-activations are, against a count over all of them at once."""
    dictionary = of_unequal_features(tmp_path, sae)
    # Known from the first block on: the largest pre-activation is among the tokens that are looked at first.
    rough = HIDDEN.bfloat16()
    rough[0] = 9 * rough[0]
    pre = dictionary.affine(dictionary.normalized(rough))
    fired = measure_firing(dictionary, rough, 1)
    assert float(fired.noise) == pytest.approx(2**-7 * float(pre[0].abs().max()))
    assert int(fired.near_switch) == int(dictionary.switching(pre[1:], fired.noise)) > 0


def test_no_tokens_fire_nothing(tmp_path):
    for index, sae in enumerate(list(configs())[:4]):
        fired = measure_firing(load_dictionary(inspect_dictionary(str(saved(tmp_path / str(index), sae)))), HIDDEN[:0])
        assert torch.equal(fired.peak, torch.zeros(D_SAE))
        assert (int(fired.n_active), float(fired.noise), int(fired.near_switch)) == (0, 0.0, 0)


def test_activations_that_are_not_finite_show_in_the_noise(tmp_path):
    for index, sae in enumerate(list(configs())[:4]):
        dictionary = load_dictionary(inspect_dictionary(str(saved(tmp_path / str(index), sae))))
        hidden = HIDDEN.clone()
        hidden[3] = 1e38
        assert not bool(measure_firing(dictionary, hidden * 3).noise.isfinite())
