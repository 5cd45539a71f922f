"""The plain reader against sae_lens itself, for every architecture; and everything that must be refused."""

import json
import shutil
from dataclasses import replace

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
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting, sae_lens_disk_loader
from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor
from safetensors.torch import save_file

from curate.errors import ConfigurationError
from curate.sae import dictionary as module
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


@pytest.mark.parametrize("factor", ["0", "-1", "NaN", "Infinity", '"wide"', "null"])
def test_a_scaler_file_without_a_positive_number_is_refused(standard, factor):
    name = edit(standard, normalize_activations="expected_average_only_in")
    (standard / "activation_scaler.json").write_text(f'{{"scaling_factor": {factor}}}')
    with pytest.raises(ConfigurationError, match="scaling_factor"):
        inspect_dictionary(name)


def test_a_scale_that_is_in_no_file_is_unknown_and_nothing_is_loaded_without_it(standard):
    info = inspect_dictionary(edit(standard, normalize_activations="expected_average_only_in"))
    assert info.scale is None
    assert len(info.notes) == 1
    assert "not folded" in info.notes[0]
    with pytest.raises(ConfigurationError, match=r"curate sae fold .* --on MODEL --dataset DATA --output DIR"):
        load_dictionary(info)
    sae = SAE.load_from_disk(standard)
    sae.fold_activation_norm_scaling_factor(0.3)
    z = load_dictionary(replace(info, scale=0.3)).encode(HIDDEN)
    torch.testing.assert_close(z, sae.encode(HIDDEN).detach(), atol=2e-5, rtol=1e-5)


OLD = {
    "model_name": "gemma-2b",
    "hook_point": "blocks.6.hook_resid_post",
    "hook_point_layer": 6,
    "hook_point_head_index": None,
    "dataset_path": "HuggingFaceFW/fineweb",
    "context_size": 1024,
    "use_cached_activations": False,
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "expansion_factor": 4,
    "l1_coefficient": 2,
    "lr": 0.0004,
    "seed": 42,
    "dtype": "torch.float32",
    "device": "cuda",
    "training_tokens": 1_000_000,
    "sparsity_kwargs": {"lp_norm": 1.0},
}


def old(folder, scaling_factor=1.0, **changes):
    """A folder as sae_lens 1 to 5 wrote it: one flat config, `scaling_factor` beside the weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_MODEL, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_MODEL), "b_dec": (D_MODEL,)}
    tensors = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    if scaling_factor is not None:
        tensors["scaling_factor"] = torch.ones(D_SAE) * scaling_factor
    folder.mkdir(exist_ok=True, parents=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**OLD, **changes}))
    return folder


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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories are folders; yields what was fetched from it."""
    fetched = []

    def fetch(repo, kind, patterns, instead, revision=None):
        fetched.append((repo, kind, patterns))
        return tmp_path / repo

    monkeypatch.setattr(module, "fetch", fetch)
    return fetched


def test_gemma_2b_residual_saes_are_read_by_their_release(tmp_path, hub):
    folder = "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr"
    here = old(tmp_path / "jbloom/Gemma-2b-Residual-Stream-SAEs" / folder)
    info = inspect_dictionary("gemma-2b-res-jb:blocks.6.hook_resid_post")
    files = [f"{folder}/{file}" for file in ("cfg.json", "sae_weights.safetensors", "activation_scaler.json")]
    assert hub == [("jbloom/Gemma-2b-Residual-Stream-SAEs", "model", files)]
    assert (info.path, info.hook_layer, info.model_name, info.scale) == (here, 6, "gemma-2b", 1.0)
    sae = SAE.load_from_disk(here)
    torch.testing.assert_close(load_dictionary(info).encode(HIDDEN), sae.encode(HIDDEN).detach(), atol=2e-5, rtol=1e-5)
    assert info.sha256 == inspect_dictionary(str(here)).sha256


def test_a_scale_that_sae_lens_lists_for_a_release_is_folded(tmp_path, hub):
    layer_12 = tmp_path / "jbloom/Gemma-2b-Residual-Stream-SAEs/gemma_2b_blocks.12.hook_resid_post_16384"
    old(layer_12, hook_point="blocks.12.hook_resid_post", normalize_activations="expected_average_only_in")
    info = inspect_dictionary("gemma-2b-res-jb:blocks.12.hook_resid_post")
    assert info.scale == get_norm_scaling_factor("gemma-2b-res-jb", "blocks.12.hook_resid_post")
    assert "that sae_lens lists" in info.notes[-1]
    assert inspect_dictionary(str(layer_12)).scale is None


def test_a_normalisation_that_sae_lens_lists_for_a_release_overrides_its_config(tmp_path, hub):
    here = old(tmp_path / "JoshEngels/Mistral-7B-Residual-Stream-SAEs/mistral_7b_layer_8")
    info = inspect_dictionary("mistral-7b-res-wg:blocks.8.hook_resid_pre")
    overrides = {"normalize_activations": "constant_norm_rescale"}
    cfg, weights = sae_lens_disk_loader(here, "cpu", overrides)
    sae = StandardSAE.from_dict(handle_config_defaulting(cfg))
    sae.load_state_dict(weights)
    torch.testing.assert_close(load_dictionary(info).encode(HIDDEN), sae.encode(HIDDEN).detach(), atol=2e-5, rtol=1e-5)
    assert "constant_norm_rescale" in info.notes[-1]
    assert info.sha256 != inspect_dictionary(str(here)).sha256


def test_a_hub_repository_is_read_like_a_release(tmp_path, hub, standard):
    shutil.copytree(standard, tmp_path / "someone/saes/layer-3", ignore=shutil.ignore_patterns("someone"))
    assert inspect_dictionary("someone/saes:layer-3").sha256 == inspect_dictionary(str(standard)).sha256


def test_a_release_in_another_format_is_refused_with_a_line_that_converts_it(hub):
    with pytest.raises(ConfigurationError, match=r"SAE.from_pretrained\(.*\)\.save_model\(FOLDER\)"):
        inspect_dictionary("gemma-scope-2b-pt-res:layer_6/width_16k/average_l0_70")
    assert hasattr(SAE, "save_model")
    assert hub == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"architecture": "transcoder"}, "transcoder"),
        ({"reshape_activations": "hook_z"}, "head outputs"),
        ({"d_in": "wide"}, "not a sae_lens config"),
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


def test_a_name_that_is_no_folder_and_no_release_is_refused():
    with pytest.raises(ConfigurationError, match="RELEASE:SAE_ID"):
        inspect_dictionary("no-such-folder")


def test_a_release_without_that_sae_is_refused():
    with pytest.raises(ConfigurationError, match="has no nothing"):
        inspect_dictionary("gpt2-small-res-jb:nothing")


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
