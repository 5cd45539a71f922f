"""Copies in sae_lens's format encode as their sources do, of every format, here and for sae_lens."""

import os
import stat
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file

from curate.errors import ConfigurationError
from curate.sae.copy import check_new, with_layer, write_copy
from curate.sae.decoder import load_decoder
from curate.sae.formats import sae_lens
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.sae.pickled import opened
from tests.sae import folders
from tests.sae.folders import D_MODEL, D_SAE, DTYPES, HIDDEN, PICKLED, SAFE, close, configs, edit, lens, of, old, saved
from tests.sae.test_formats import agrees

CLASSES = (
    "AutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
)
MAKERS = {
    **SAFE,
    **{kind: lambda root, kind=kind: folders.dictionary_learning(root, kind) for kind in CLASSES},
    "qwen_scope": folders.qwen_scope,
}


def imported(source, output, **facts):
    with opened(str(source)) as info:
        write_copy(info, output, facts)
    return inspect_dictionary(str(output))


@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_encodes_and_decodes_as_the_published_formula_and_for_sae_lens_too(tmp_path, name):
    made = MAKERS[name](tmp_path / "source")
    info = imported(made.folder, tmp_path / "copy", more="of this")
    x, z = HIDDEN, made.encode(HIDDEN.double().numpy())
    assert (info.format, info.scale, info.d_model, info.d_sae) == ("sae_lens", 1.0, D_MODEL, z.shape[1])
    kept = {key: value for key, value in made.facts.items() if key != "scale"}
    assert {key: getattr(info, key) for key in kept} == kept
    if "units" not in kept:
        assert info.units == "raw"
    agrees(load_dictionary(info).encode(x), z)
    agrees(load_decoder(info).decode(torch.from_numpy(z).float(), x), made.decode(z))
    sae = lens(info.path)
    close(sae.encode(x), torch.from_numpy(z).float())
    close(sae.decode(torch.from_numpy(z).float()), torch.from_numpy(made.decode(z)).float())
    metadata = sae.cfg.metadata
    assert (metadata.more, metadata.hook_name) == ("of this", f"blocks.{info.hook_layer}.hook_resid_post")
    assert metadata.sae_lens_version == version("sae_lens")
    # A copy of the copy is the copy.
    again = imported(info.path, tmp_path / "again", more="of this")
    assert again.sha256 == info.sha256


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PICKLED)
def test_pickles_of_every_precision_are_read(tmp_path, name, dtype):
    made = PICKLED[name](tmp_path / "source", dtype=DTYPES[dtype])
    info = imported(made.folder, tmp_path / "copy")
    agrees(load_dictionary(info).encode(HIDDEN), made.encode(HIDDEN.double().numpy()))


@pytest.mark.parametrize("sae", configs(), ids=of)
def test_a_copy_of_any_architecture_and_normalisation_is_the_same_for_sae_lens(tmp_path, sae):
    folder = saved(tmp_path / "sae", sae)
    info, expected = imported(folder, tmp_path / "copy"), lens(folder)
    copy = lens(info.path)
    close(copy.encode(HIDDEN), expected.encode(HIDDEN))
    close(copy(HIDDEN), expected(HIDDEN))
    close(load_dictionary(info).encode(HIDDEN), expected.encode(HIDDEN))


@pytest.mark.parametrize("sae", list(configs())[:10], ids=of)
def test_a_folded_copy_does_what_sae_lens_does_with_the_scale_folded(tmp_path, sae):
    name = edit(saved(tmp_path / "old", sae), normalize_activations="expected_average_only_in")
    info, scale = inspect_dictionary(name), 0.3
    with pytest.raises(ConfigurationError, match="leaves open whether the activation scale is folded"):
        write_copy(info, tmp_path / "new", {})
    write_copy(replace(info, scale=scale), tmp_path / "new", {"activation_scale": scale})
    expected = lens(info.path)
    # Activations keep their normalised units, which sae_lens's folding changes where it rescales by decoder norms.
    z = expected.encode(HIDDEN * scale)
    expected.fold_activation_norm_scaling_factor(scale)
    copy = lens(tmp_path / "new")
    close(copy.encode(HIDDEN), z)
    close(copy(HIDDEN), expected(HIDDEN))
    found = inspect_dictionary(str(tmp_path / "new"))
    close(load_dictionary(found).encode(HIDDEN), z)
    close(load_decoder(found).decode(z.detach(), HIDDEN), expected(HIDDEN))
    close(load_dictionary(replace(info, scale=scale)).encode(HIDDEN), z)
    assert (found.scale, found.hook_layer, found.notes, found.k) == (1.0, 3, (), info.k)
    assert (found.units, found.default_delta) == ("normalised", 1.0)
    assert copy.cfg.metadata.activation_scale == scale


def test_an_old_files_words_and_factors_come_along(tmp_path):
    factor = torch.rand(D_SAE, generator=torch.Generator().manual_seed(3)) + 0.5
    path = old(tmp_path / "old", factor, finetuning_scaling_factor=True, normalize_activations=True)
    scale = 0.3
    write_copy(replace(inspect_dictionary(str(path)), scale=scale), tmp_path / "new", {})
    tensors = load_file(path / "sae_weights.safetensors")
    z = ((HIDDEN * scale - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).clamp(min=0)
    copy = lens(tmp_path / "new")
    close(copy(HIDDEN), ((z * factor) @ tensors["W_dec"] + tensors["b_dec"]) / scale)
    metadata = copy.cfg.metadata
    assert (metadata.model_name, metadata.hook_name, metadata.lr) == ("gemma-2b", "blocks.6.hook_resid_post", 0.0004)
    assert "finetuning_scaling_factor" not in metadata
    found = inspect_dictionary(str(tmp_path / "new"))
    assert (found.hook_layer, found.model_name, found.notes) == (6, "gemma-2b", ())


def test_the_block_before_is_still_read_where_its_maker_called_it_the_input_of_the_next(tmp_path):
    path = old(tmp_path / "old", hook_point="blocks.16.hook_resid_pre", hook_point_layer=16)
    info = imported(path, tmp_path / "new")
    assert (info.hook_layer, info.metadata["hook_name"]) == (15, "blocks.16.hook_resid_pre")


def test_a_licence_is_that_of_the_copy_too(tmp_path):
    info = replace(inspect_dictionary(str(saved(tmp_path / "sae", next(configs())))), licence="CC BY-NC 4.0")
    write_copy(info, tmp_path / "copy", {})
    copy = inspect_dictionary(str(tmp_path / "copy"))
    assert copy.licence == "CC BY-NC 4.0"
    write_copy(copy, tmp_path / "again", {})
    assert inspect_dictionary(str(tmp_path / "again")).licence == "CC BY-NC 4.0"


def test_a_hook_layer_may_be_given_where_the_files_do_not_say_one(tmp_path):
    folder = saved(tmp_path / "sae", next(configs()))
    info = inspect_dictionary(str(folder))
    assert with_layer(info, None) is with_layer(info, 3) is info
    with pytest.raises(ConfigurationError, match=r"--hook-layer 4: .* was trained on layer 3"):
        with_layer(info, 4)
    write_copy(with_layer(inspect_dictionary(edit(folder, metadata={})), 4), tmp_path / "copy", {})
    assert inspect_dictionary(str(tmp_path / "copy")).hook_layer == 4


# Decoder norms


FOLDABLE = [sae for sae in configs() if of(sae).rpartition("-")[0].rpartition("-")[0] != "topk"]


@pytest.mark.parametrize("sae", FOLDABLE, ids=of)
def test_with_decoder_norms_folded_an_activation_is_as_long_as_what_it_adds(tmp_path, sae):
    folder = saved(tmp_path / "sae", sae)
    source = inspect_dictionary(str(folder))
    write_copy(source, tmp_path / "copy", {}, fold_decoder_norm=True)
    info, expected = inspect_dictionary(str(tmp_path / "copy")), lens(folder)
    z, norms = expected.encode(HIDDEN), load_decoder(source).weight.norm(dim=1)
    found = load_dictionary(info).encode(HIDDEN)
    close(found, z * norms)
    assert torch.equal(found > 1e-4, z * norms > 1e-4)
    close(load_decoder(info).weight.norm(dim=1), torch.ones(D_SAE))
    close(load_decoder(info).decode(found, HIDDEN), expected.decode(z))
    if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        expected.fold_W_dec_norm()
        close(found, expected.encode(HIDDEN))
    close(lens(info.path).encode(HIDDEN), found)
    per_token = sae.cfg.normalize_activations != "none"
    assert (info.units, info.metadata["decoder_norms"]) == (
        "normalised" if per_token else "raw",
        "folded into the encoder",
    )
    if per_token:
        assert info.default_delta == 1.0


def test_decoder_norms_are_those_of_the_residual_stream_where_a_scale_is_folded_too(tmp_path):
    made = folders.llama_scope(tmp_path / "source")
    source = inspect_dictionary(str(made.folder))
    write_copy(source, tmp_path / "copy", {}, fold_decoder_norm=True)
    info = inspect_dictionary(str(tmp_path / "copy"))
    z = load_dictionary(source).encode(HIDDEN)
    close(load_dictionary(info).encode(HIDDEN), z * load_decoder(source).weight.norm(dim=1))
    close(load_decoder(info).weight.norm(dim=1), torch.ones(D_SAE))


@pytest.mark.parametrize("make", [folders.sparsify, folders.qwen_scope])
def test_norms_that_would_change_which_features_win_are_not_folded(tmp_path, make):
    with (
        opened(str(make(tmp_path / "source").folder)) as info,
        pytest.raises(ConfigurationError, match=r"--fold-decoder-norm: .* is a TopK SAE"),
    ):
        write_copy(info, tmp_path / "copy", {}, fold_decoder_norm=True)
    assert not (tmp_path / "copy").exists()


# Where it is written


def test_nothing_is_written_where_something_is(tmp_path):
    info = inspect_dictionary(str(saved(tmp_path / "old", next(configs()))))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    for check in (lambda path: write_copy(info, path, {}), check_new):
        with pytest.raises(ConfigurationError, match="not an empty folder"):
            check(tmp_path / "new")
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["notes.txt"]
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ConfigurationError, match="not an empty folder"):
            check(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_copy(info, tmp_path / "file" / "new", {})
    (tmp_path / "empty").mkdir()
    write_copy(info, tmp_path / "empty", {})
    assert {file.name for file in tmp_path.iterdir()} == {"old", "new", "file", "empty"}


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    info = inspect_dictionary(str(saved(tmp_path / "old", next(configs()))))

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sae_lens, "save_file", full)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left"):
        write_copy(info, tmp_path / "new", {})
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_all_files_have_the_permissions_that_the_user_gives(tmp_path, mask):
    info = inspect_dictionary(str(saved(tmp_path / "old", next(configs()))))
    before = os.umask(mask)
    try:
        write_copy(info, tmp_path / "new", {})
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new").iterdir()}
    assert modes == {"cfg.json": 0o666 & ~mask, "sae_weights.safetensors": 0o666 & ~mask}
