"""The decoder against sae_lens itself, for every architecture and normalisation; and what must be refused."""

import json
from dataclasses import replace

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from safetensors.torch import load_file, save_file

from curate.errors import ConfigurationError
from curate.sae.decoder import load_decoder
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae.folders import D_MODEL, D_SAE, HIDDEN, close, configs, edit, of, old, saved


def reconstructed(info):
    return load_decoder(info).decode(load_dictionary(info).encode(HIDDEN), HIDDEN)


@pytest.mark.parametrize("sae", configs(), ids=of)
def test_reconstructions_equal_sae_lens(tmp_path, sae):
    folder = saved(tmp_path, sae)
    close(reconstructed(inspect_dictionary(str(folder))), SAE.load_from_disk(folder)(HIDDEN))


@pytest.mark.parametrize("sae", list(configs())[:10], ids=of)
def test_with_an_unfolded_scale_they_are_in_the_hidden_states_own_units(tmp_path, sae):
    folder = saved(tmp_path, sae)
    name = edit(folder, normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.25}))
    expected = SAE.load_from_disk(folder)
    expected.fold_activation_norm_scaling_factor(0.25)
    close(reconstructed(inspect_dictionary(name)), expected(HIDDEN))
    # And by hand: the dictionary's work on scaled hidden states, scaled back.
    close(reconstructed(inspect_dictionary(name)), SAE.load_from_disk(folder)(HIDDEN * 0.25) / 0.25)


def test_half_precision_hidden_states_are_reconstructed_in_float32(tmp_path):
    folder = saved(
        tmp_path, StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE, normalize_activations="layer_norm"))
    )
    info, hidden = inspect_dictionary(str(folder)), HIDDEN.bfloat16()
    found = load_decoder(info).decode(load_dictionary(info).encode(hidden), hidden)
    close(found, SAE.load_from_disk(folder)(hidden.float()))


def test_a_fine_tuned_decoder_multiplies_activations_first(tmp_path):
    factor = torch.rand(D_SAE, generator=torch.Generator().manual_seed(3)) + 0.5
    folder = old(tmp_path / "sae", factor, architecture="standard", finetuning_scaling_factor=True)
    info = inspect_dictionary(str(folder))
    tensors = load_file(folder / "sae_weights.safetensors")
    z = ((HIDDEN - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).clamp(min=0)
    close(load_dictionary(info).encode(HIDDEN), z)
    close(reconstructed(info), (z * factor) @ tensors["W_dec"] + tensors["b_dec"])
    assert "finetuning_scaling_factor" in info.notes[-1]


def test_factors_that_the_config_does_not_tell_of_are_refused(tmp_path):
    info = inspect_dictionary(str(old(tmp_path / "sae", 1.5)))
    with pytest.raises(ConfigurationError, match="finetuning_scaling_factor is not true"):
        load_decoder(info)


@pytest.fixture
def standard(tmp_path):
    return saved(tmp_path, StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=D_SAE)))


def test_an_unknown_scale_is_refused_and_an_estimate_taken(standard):
    info = inspect_dictionary(edit(standard, normalize_activations="expected_average_only_in"))
    with pytest.raises(ConfigurationError, match="curate sae import"):
        load_decoder(info)
    close(reconstructed(replace(info, scale=0.5)), SAE.load_from_disk(standard)(HIDDEN * 0.5) / 0.5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("W_dec", torch.full((D_SAE, D_MODEL), float("nan")), "W_dec holds NaN"),
        ("W_dec", torch.zeros(D_MODEL, D_SAE), r"W_dec is \(16, 64\), not \(64, 16\)"),
        ("b_dec", None, "b_dec is missing"),
        ("b_dec", torch.full((D_MODEL,), float("inf")), "b_dec holds NaN or infinity"),
        ("scaling_factor", torch.ones(3), r"scaling_factor is \(3,\)"),
    ],
)
def test_weights_that_cannot_be_used_are_named(standard, key, value, message):
    path = standard / "sae_weights.safetensors"
    tensors = load_file(path) | {key: value}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(ConfigurationError, match=message):
        load_decoder(inspect_dictionary(str(standard)))


def test_a_damaged_weights_file_is_named(standard):
    path = standard / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigurationError, match=r"sae_weights.safetensors is damaged"):
        load_decoder(inspect_dictionary(str(standard)))
