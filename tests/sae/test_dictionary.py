"""The plain reader against sae_lens itself, for every architecture; and everything that must be refused."""

import json

import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from curate.errors import ConfigurationError
from curate.sae.dictionary import inspect_dictionary, load_dictionary

D_MODEL, D_SAE = 16, 64
HIDDEN = torch.randn(200, D_MODEL, generator=torch.Generator().manual_seed(1)) * 3


def saved(folder, sae):
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    if hasattr(sae, "threshold"):
        sae.threshold.data = sae.threshold.data.abs()
    sae.cfg.metadata.hook_layer = 3
    sae.save_model(folder)
    return folder


def configs():
    for normalize in ("none", "layer_norm", "constant_norm_rescale"):
        for centre in (True, False):
            common = {
                "d_in": D_MODEL,
                "d_sae": D_SAE,
                "normalize_activations": normalize,
                "apply_b_dec_to_input": centre,
            }
            yield StandardSAE(StandardSAEConfig(**common))
            yield JumpReLUSAE(JumpReLUSAEConfig(**common))
            yield GatedSAE(GatedSAEConfig(**common))
            yield TopKSAE(TopKSAEConfig(**common, k=7))
            yield TopKSAE(TopKSAEConfig(**common, k=7, rescale_acts_by_decoder_norm=True))


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


def edit(folder, **changes):
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    metadata = changes.pop("metadata", None)
    config |= changes
    if metadata is not None:
        config["metadata"] = metadata
    path.write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def standard(tmp_path):
    config = StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE)
    return saved(tmp_path, StandardSAE(config))


def test_an_unfolded_scale_is_folded_from_the_scaler_file_and_said(standard):
    name = edit(standard, normalize_activations="expected_average_only_in")
    (standard / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.25}))
    info = inspect_dictionary(name)
    assert "0.25" in info.notes[0]
    sae = SAE.load_from_disk(standard)
    sae.fold_activation_norm_scaling_factor(0.25)
    torch.testing.assert_close(load_dictionary(info).encode(HIDDEN), sae.encode(HIDDEN).detach(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "not folded"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"architecture": "transcoder"}, "transcoder"),
        ({"reshape_activations": "hook_z"}, "head outputs"),
        ({"d_in": "wide"}, "not a sae_lens config"),
        ({"metadata": {"hook_name": "blocks.3.hook_mlp_out"}}, "not on the residual stream"),
        ({"metadata": {"hook_layer": "three"}}, "not a layer's number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(standard, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        inspect_dictionary(edit(standard, **changes))


@pytest.mark.parametrize(
    ("metadata", "layer"),
    [
        ({"hook_name": "blocks.7.hook_resid_post", "hook_layer": 7}, 7),
        ({"hook_name": "blocks.7.hook_resid_pre", "hook_layer": 7}, 6),
        ({"hook_layer": 7}, 7),
        ({}, None),
    ],
)
def test_the_hook_layer_counts_blocks_whose_output_is_read(standard, metadata, layer):
    assert inspect_dictionary(edit(standard, metadata=metadata)).hook_layer == layer


def test_a_damaged_weights_file_is_named(standard):
    path = standard / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigurationError, match=r"sae_weights.safetensors is damaged"):
        load_dictionary(inspect_dictionary(str(standard)))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    sae = StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE))
    sae.W_enc.data[0, 0] = float("nan")
    sae.save_model(tmp_path)
    with pytest.raises(ConfigurationError, match="W_enc holds NaN"):
        load_dictionary(inspect_dictionary(str(tmp_path)))


def test_weights_of_another_shape_than_the_config_says_are_refused(standard):
    with pytest.raises(ConfigurationError, match="W_enc is"):
        load_dictionary(inspect_dictionary(edit(standard, d_sae=D_SAE * 2)))


def test_a_name_that_is_no_folder_and_no_release_is_refused():
    with pytest.raises(ConfigurationError, match="RELEASE:SAE_ID"):
        inspect_dictionary("no-such-folder")


def test_a_release_without_that_sae_is_refused():
    with pytest.raises(ConfigurationError, match="has no nothing"):
        inspect_dictionary("gpt2-small-res-jb:nothing")


@pytest.mark.parametrize("sae", list(configs())[:5], ids=lambda sae: sae.cfg.architecture())
def test_where_none_is_near_switching_no_noise_of_that_size_switches_any(tmp_path, sae):
    dictionary = load_dictionary(inspect_dictionary(str(saved(tmp_path, sae))))
    pre = dictionary.pre_activations(HIDDEN[:3])
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
