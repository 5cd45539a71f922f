"""The encoder against sae_lens itself, for every architecture; and which activations rounding may switch."""

import pytest
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae.folders import D_MODEL, D_SAE, HIDDEN, configs, saved


@pytest.mark.parametrize("sae", configs(), ids=lambda sae: f"{sae.cfg.architecture()}-{sae.cfg.normalize_activations}")
def test_activations_equal_sae_lens(tmp_path, sae):
    folder = saved(tmp_path, sae)
    info = inspect_dictionary(str(folder))
    z = load_dictionary(info).encode(HIDDEN)
    expected = SAE.load_from_disk(folder).encode(HIDDEN)
    assert (info.d_model, info.d_sae, info.hook_layer) == (D_MODEL, D_SAE, 3)
    assert expected.count_nonzero() > 100
    torch.testing.assert_close(z, expected.detach(), atol=2e-5, rtol=1e-5)


def test_a_trained_batchtopk_sae_is_read_as_sae_lens_reads_it(tmp_path):
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=D_SAE, k=5))
    sae.topk_threshold += 0.8
    sae.save_inference_model(tmp_path)
    z = load_dictionary(inspect_dictionary(str(tmp_path))).encode(HIDDEN)
    torch.testing.assert_close(z, SAE.load_from_disk(tmp_path).encode(HIDDEN).detach(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("sae", list(configs())[:5], ids=lambda sae: sae.cfg.architecture())
def test_where_none_is_near_switching_no_noise_of_that_size_switches_any(tmp_path, sae):
    dictionary = load_dictionary(inspect_dictionary(str(saved(tmp_path, sae))))
    pre = dictionary.affine(dictionary.normalized(HIDDEN[:3]))
    active = dictionary.activations(pre) > 0
    # Gated magnitudes change by up to exp(r_mag) times as much as the gate does.
    reach = 0.05 if sae.cfg.architecture() == "gated" else 0.49
    sizes = torch.tensor([2.0**-k for k in range(24)])
    safe = next(size for size in sizes if dictionary.switching(pre, size) == 0)
    generator = torch.Generator().manual_seed(2)
    for _ in range(200):
        noise = (torch.rand(pre.shape, generator=generator) * 2 - 1) * safe * reach
        assert torch.equal(dictionary.activations(pre + noise) > 0, active)
    # And where the noise is large, it is counted and it switches.
    large = pre.abs().max()
    assert dictionary.switching(pre, large) > 0
    noise = torch.randn(pre.shape, generator=generator) * large
    assert not torch.equal(dictionary.activations(pre + noise) > 0, active)
