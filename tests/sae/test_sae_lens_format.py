"""sae_lens's own format, of all its versions: what its configs mean, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from curate.errors import ConfigurationError
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae.folders import D_MODEL, D_SAE, HIDDEN, edit, old, saved


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


@pytest.mark.parametrize("factor", ["0", "-1", "NaN", "Infinity", '"wide"', "null"])
def test_a_scaler_file_without_a_positive_number_is_refused(standard, factor):
    name = edit(standard, normalize_activations="expected_average_only_in")
    (standard / "activation_scaler.json").write_text(f'{{"scaling_factor": {factor}}}')
    with pytest.raises(ConfigurationError, match="scaling_factor"):
        inspect_dictionary(name)


def test_a_scale_that_is_in_no_file_is_unknown_and_nothing_is_loaded_without_it(standard):
    info = inspect_dictionary(edit(standard, normalize_activations="expected_average_only_in"))
    assert info.scale is None
    assert (info.units, info.default_delta) == ("normalised", 1.0)
    with pytest.raises(ConfigurationError, match=r"curate sae import .* --on MODEL --dataset DATA --output DIR"):
        load_dictionary(info)
    sae = SAE.load_from_disk(standard)
    sae.fold_activation_norm_scaling_factor(0.3)
    z = load_dictionary(replace(info, scale=0.3)).encode(HIDDEN)
    torch.testing.assert_close(z, sae.encode(HIDDEN).detach(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, ["no architecture"]),
        ({"architecture": "standard"}, []),
        ({"activation_fn_str": "relu", "normalize_activations": None}, ["no architecture"]),
        ({"activation_fn": "relu", "activation_fn_kwargs": None, "normalize_activations": False}, ["no architecture"]),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}, ["activation_fn topk"]),
        ({"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": 7}}, ["activation_fn"]),
        ({"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 7}}, []),
        ({"architecture": "topk", "activation_fn": "topk", "k": 7}, []),
        ({"architecture": "standard", "apply_b_dec_to_input": False}, []),
        ({"architecture": "standard", "normalize_activations": "layer_norm"}, []),
    ],
)
@pytest.mark.parametrize("scaling_factor", [1.0, None])
def test_old_configs_are_read_as_sae_lens_reads_them_and_said(tmp_path, changes, notes, scaling_factor):
    folder = old(tmp_path / "sae", scaling_factor, **changes)
    info = inspect_dictionary(str(folder))
    sae = SAE.load_from_disk(folder)
    z, expected = load_dictionary(info).encode(HIDDEN), sae.encode(HIDDEN).detach()
    assert expected.count_nonzero() > 100
    torch.testing.assert_close(z, expected, atol=2e-5, rtol=1e-5)
    assert info.architecture == sae.cfg.architecture()
    assert (info.hook_layer, info.model_name) == (6, "gemma-2b")
    wanted = ["hook_point)", "hook_point_layer", *notes]
    assert len(info.notes) == len(wanted)
    assert all(f"old format ({want}" in note for want, note in zip(wanted, info.notes, strict=True))


def test_the_old_word_for_an_unfolded_scale_is_known(tmp_path):
    info = inspect_dictionary(str(old(tmp_path / "sae", architecture="standard", normalize_activations=True)))
    assert SAE.load_from_disk(info.path).cfg.normalize_activations == "expected_average_only_in"
    assert info.scale is None
    assert "normalize_activations true" in info.notes[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"architecture": "transcoder"}, "transcoder"),
        ({"reshape_activations": "hook_z"}, "head outputs"),
        ({"d_in": "wide"}, "its d_in is 'wide', not a whole number"),
        ({"d_in": 16.5}, "its d_in is 16.5, not a whole number"),
        ({"d_sae": 0}, "it has 0 features"),
        ({"metadata": ["hook_layer"]}, "not a sae_lens config"),
        ({"activation_fn_kwargs": "k", "activation_fn": "topk"}, "not a sae_lens config"),
        ({"activation_fn": "tanh-relu"}, "activation function is tanh-relu"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {}}, "k is None"),
        ({"architecture": "topk", "k": 0}, "k is 0"),
        ({"architecture": "topk", "k": D_SAE + 1}, "k is 65"),
        ({"metadata": {"hook_name": "blocks.3.hook_mlp_out"}}, "not on the residual stream"),
        ({"metadata": {"hook_name": "blocks.3.attn.hook_z"}}, "not on the residual stream"),
        ({"metadata": {"hook_name": "blocks.3.hook_resid_mid"}}, "not on the residual stream"),
        ({"metadata": {"hook_name": "hook_embed"}}, "not on the residual stream"),
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
