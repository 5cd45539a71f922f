"""Every published format against its publisher's formula in NumPy, and against sae_lens's own loader where it is right.

Then folders that are damaged, and SAEs of other kinds, which are refused with the reason.
"""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens.loading import pretrained_sae_loaders as lens
from sae_lens.registry import get_sae_class
from safetensors.torch import load_file, save_file

from curate.errors import ConfigurationError
from curate.sae.decoder import load_decoder
from curate.sae.formats import gemma_scope_2
from curate.sae.formats.format import Source
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae import folders
from tests.sae.folders import D_MODEL, D_SAE, DTYPES, HIDDEN, SAFE

FORMATS = {"sae_v": "sae_lens"}


def agrees(found, expected):
    """To the rounding of float32: its sums of 16 products are off by a few units in the seventh digit."""
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SAFE)
def test_activations_and_reconstructions_are_those_of_the_published_formula(tmp_path, name, dtype):
    if (name, dtype) == ("gemma_scope", "bfloat16"):
        pytest.skip("NumPy has no bfloat16")
    made = SAFE[name](tmp_path, DTYPES[dtype])
    info = inspect_dictionary(str(made.folder))
    z, x = made.encode(HIDDEN.double().numpy()), HIDDEN
    assert (info.format, info.d_model, info.d_sae) == (FORMATS.get(name, name), D_MODEL, D_SAE)
    assert {key: getattr(info, key) for key in made.facts} == made.facts
    assert 100 < (z > 0).sum() < z.size / 1.5
    found = load_dictionary(info).encode(x)
    agrees(found, z)
    assert np.array_equal(found.numpy() > 0, z > 0)
    agrees(load_decoder(info).decode(torch.from_numpy(z).float(), x), made.decode(z))


@pytest.fixture
def from_folder(monkeypatch):
    """sae_lens's loaders, which fetch from the hub, fetch from a folder here."""

    def serve(root: Path):
        def download(repo_id, filename, subfolder=None, **_):
            path = root / (subfolder or "") / filename
            if not path.is_file():
                raise lens.EntryNotFoundError("404")
            return str(path)

        def sizes(repo_id, filename):
            return {key: list(tensor.shape) for key, tensor in load_file(root / filename).items()}

        monkeypatch.setattr(lens, "hf_hub_download", download)
        monkeypatch.setattr(lens, "get_safetensors_tensor_shapes", sizes)

    return serve


LOADERS = {
    "sae_lens": lens.sae_lens_huggingface_loader,
    "sae_v": lens.sae_lens_huggingface_loader,
    "gemma_scope_2": lens.gemma_3_sae_huggingface_loader,
    "gemma_scope": lens.gemma_2_sae_huggingface_loader,
    "llama_scope": lens.llama_scope_sae_huggingface_loader,
}


def as_sae_lens_has_it(loader, made, **overrides):
    config, state, _ = loader(made.repo, made.path, cfg_overrides={"dtype": "float32", "d_in": D_MODEL, **overrides})
    config = lens.handle_config_defaulting(config)
    sae = get_sae_class(config["architecture"])[0].from_dict(config)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict(state)
    return sae


@pytest.mark.parametrize("name", LOADERS)
def test_activations_and_reconstructions_are_those_of_sae_lens(tmp_path, from_folder, name):
    made = SAFE[name](tmp_path)
    from_folder(tmp_path)
    sae = as_sae_lens_has_it(LOADERS[name], made, d_sae=D_SAE)
    info = inspect_dictionary(str(made.folder))
    if name == "llama_scope":
        # It folds the scale that its registry lists, rather than the one in the config, which is the same.
        sae.fold_activation_norm_scaling_factor(info.scale)
    z = sae.encode(HIDDEN)
    folders.close(load_dictionary(info).encode(HIDDEN), z)
    folders.close(load_decoder(info).decode(z.detach(), HIDDEN), sae.decode(z))
    assert sae.cfg.metadata.hook_name == f"blocks.{info.hook_layer}.hook_resid_post"
    assert (
        str(info.model_name or sae.cfg.metadata.model_name).rpartition("/")[2]
        == (str(sae.cfg.metadata.model_name).rpartition("/")[2])
    )


def test_gemma_scope_2_without_a_config_is_read_by_its_folders_names(tmp_path, from_folder):
    made = folders.gemma_scope_2(tmp_path, config=False)
    from_folder(tmp_path)
    info = inspect_dictionary(str(made.folder))
    agrees(load_dictionary(info).encode(HIDDEN), made.encode(HIDDEN.double().numpy()))
    assert (info.hook_layer, info.model_name) == (17, None)
    assert "no config.json" in info.notes[0]
    folders.close(
        load_dictionary(info).encode(HIDDEN), as_sae_lens_has_it(LOADERS["gemma_scope_2"], made).encode(HIDDEN)
    )
    moved = shutil.copytree(made.folder, tmp_path / "elsewhere" / made.folder.name)
    with pytest.raises(ConfigurationError, match=r"keep the repository's folders, such as resid_post/"):
        inspect_dictionary(str(moved))


@pytest.mark.parametrize(
    ("repo", "model"),
    [
        ("google/gemma-scope-2-4b-it", "google/gemma-3-4b-it"),
        ("google/gemma-scope-2-270m-pt", "google/gemma-3-270m"),
        ("me/gemma-scope-2-4b-it-copy", "google/gemma-3-4b-it"),
        ("me/gs2-copy", None),
        (None, None),
    ],
)
def test_gemma_scope_2s_model_is_in_its_repositorys_name_if_its_config_does_not_say(tmp_path, repo, model):
    made = folders.gemma_scope_2(tmp_path)
    change(made.folder / "config.json", model_name=None)
    assert gemma_scope_2.describe(Source("x", made.folder, repo, made.path, {})).model_name == model


def test_sparsify_may_leave_the_number_of_features_to_its_expansion_factor(tmp_path):
    made = folders.sparsify(tmp_path)
    change(made.folder / "cfg.json", num_latents=0, expansion_factor=D_SAE // D_MODEL)
    assert inspect_dictionary(str(made.folder)).d_sae == D_SAE


@pytest.mark.parametrize(
    ("folder", "layer"),
    [("layers.5", 5), ("layer_5", 5), ("model.layers.5", 5), ("model.language_model.layers.5", 5), ("h.5", 5)],
)
def test_sparsifys_layer_is_in_its_folders_name(tmp_path, folder, layer):
    made = folders.sparsify(tmp_path / "layers.9")
    renamed = made.folder.rename(made.folder.with_name(folder))
    assert inspect_dictionary(str(renamed)).hook_layer == layer
    # And no other part of the path says it; nor does a name that resembles another place's.
    for name in ("mine", "mine-revision-2", "supervision"):
        renamed = renamed.rename(renamed.with_name(name))
        assert inspect_dictionary(str(renamed)).hook_layer is None


@pytest.mark.parametrize(
    ("content", "model"),
    [
        (b'{"model": "a/b"}', "a/b"),
        (b'{"model": "a/\\ud800"}', "a/?"),
        (b'{"model": 3}', None),
        (b"[1]", None),
        (b"[" * 99_999, None),
        (b'{"model": "a/b"}' + b" " * (1 << 20), None),
        (b"\xff", None),
    ],
)
def test_sparsifys_model_is_in_the_config_above_if_that_can_be_read(tmp_path, content, model):
    made = folders.sparsify(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    assert inspect_dictionary(str(made.folder)).model_name == model


@pytest.mark.parametrize(
    ("folder", "model"),
    [
        ("gemma-scope-9b-it-res", "google/gemma-2-9b-it"),
        ("gemma-scope-2b-pt-res", "google/gemma-2-2b"),
        ("models--google--gemma-scope-27b-pt-res/snapshots/ab", "google/gemma-2-27b"),
        ("gemma-scope-2-4b-it", None),
        ("saes", None),
    ],
)
def test_gemma_scopes_model_is_in_its_repositorys_name(tmp_path, folder, model):
    made = folders.gemma_scope(tmp_path / folder)
    info = inspect_dictionary(str(made.folder))
    assert (info.hook_layer, info.model_name) == (20, model)


def test_units_and_bounds_are_those_that_each_format_is_in(tmp_path):
    found = {}
    for name, make in SAFE.items():
        info = inspect_dictionary(str(make(tmp_path / name).folder))
        found[name] = (info.units, info.default_delta)
    raw = ("raw", 0.0)
    assert found == {
        "sae_lens": raw,
        "sae_v": ("raw", 1.0),
        "sparsify": raw,
        "gemma_scope_2": raw,
        "gemma_scope": raw,
        "llama_scope": ("normalised", 1.0),
    }


def test_an_sae_is_told_from_another_by_its_hash(tmp_path):
    for name, make in SAFE.items():
        made = make(tmp_path / name)
        before = inspect_dictionary(str(made.folder)).sha256
        assert inspect_dictionary(str(shutil.copytree(made.folder, tmp_path / f"{name}-copy" / made.path))).sha256 == (
            before
        )
        path = next(path for path in made.folder.rglob("*") if path.suffix in (".npz", ".safetensors"))
        content = bytearray(path.read_bytes())
        content[-200 if path.suffix == ".safetensors" else 300] ^= 1
        path.write_bytes(content)
        if path.suffix == ".safetensors":
            assert inspect_dictionary(str(made.folder)).sha256 != before


# Damage


def change(path: Path, **changes):
    """Set entries of a config, or take out those that are given as None."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def tensors(path: Path, **changes):
    """Set tensors of a weights file, or take out those that are given as None."""
    content = {**load_file(path), **{key.replace("__", "."): value for key, value in changes.items()}}
    save_file({key: value.contiguous() for key, value in content.items() if value is not None}, path)


NAN, FLAT = torch.tensor(float("nan")), torch.zeros(7)
ENCODER = {"sparsify": "encoder__weight", "llama_scope": "encoder__weight", "gemma_scope_2": "w_enc"}
DECODER = {"llama_scope": "decoder__weight", "gemma_scope_2": "w_dec"}
BIAS = {"sparsify": "encoder__bias", "llama_scope": "encoder__bias"}
CENTRE = {"llama_scope": "decoder__bias"}
CONFIG = {"gemma_scope_2": "config.json", "llama_scope": "hyperparams.json"}


def safetensors_damages(name: str):
    """Each with what its reason has to say."""
    encoder, decoder = ENCODER.get(name, "W_enc"), DECODER.get(name, "W_dec")
    bias, centre, config = BIAS.get(name, "b_enc"), CENTRE.get(name, "b_dec"), CONFIG.get(name, "cfg.json")

    def shown(key):
        return key.replace("__", ".")

    def weights(folder):
        return next(folder.rglob("*.safetensors"))

    return {
        "truncated": (lambda f: weights(f).write_bytes(weights(f).read_bytes()[:-40]), "is damaged"),
        "empty": (lambda f: weights(f).write_bytes(b""), "is damaged"),
        "garbage": (lambda f: weights(f).write_bytes(b"\xff" * 4000), "is damaged"),
        "no encoder": (lambda f: tensors(weights(f), **{encoder: None}), f"{shown(encoder)}.* missing"),
        "no decoder": (lambda f: tensors(weights(f), **{decoder: None}), f"{shown(decoder)}.* missing"),
        "flat encoder": (lambda f: tensors(weights(f), **{encoder: FLAT}), rf"{shown(encoder)}.* is \(7,\)"),
        "turned decoder": (
            lambda f: tensors(weights(f), **{decoder: load_file(weights(f))[shown(decoder)].T}),
            rf"{shown(decoder)} is \(\d+, \d+\), not",
        ),
        "NaN": (lambda f: tensors(weights(f), **{bias: NAN.expand(D_SAE)}), f"{shown(bias)} holds NaN"),
        "infinity": (lambda f: tensors(weights(f), **{centre: torch.full((D_MODEL,), float("inf"))}), "holds NaN"),
        "short bias": (lambda f: tensors(weights(f), **{bias: FLAT}), rf"{shown(bias)} is \(7,\), not \(64,\)"),
        "config of no JSON": (lambda f: (f / config).write_text("{'d_in': 16"), rf"{config}|not a sae_lens config"),
        "config of a list": (lambda f: (f / config).write_text("[1]"), "holds no JSON object"),
        "config of bytes": (lambda f: (f / config).write_bytes(b"\xff\xfe\x00"), "cannot be read as JSON"),
        "config nested too deep": (lambda f: (f / config).write_text("[" * 99_999), "cannot be read as JSON"),
    }


DAMAGES = [
    (name, damage)
    for name in ("sae_lens", "sae_v", "sparsify", "gemma_scope_2", "llama_scope")
    for damage in safetensors_damages(name)
]


def refused(folder: Path, reason: str) -> str:
    """It is refused when it is looked at or loaded, in one line that names it or its file."""

    def use():
        info = inspect_dictionary(str(folder))
        load_dictionary(info)
        load_decoder(info)

    with pytest.raises(ConfigurationError, match=reason) as caught:
        use()
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_folder_is_refused_with_the_reason(tmp_path, name, damage):
    made = SAFE[name](tmp_path)
    spoil, reason = safetensors_damages(name)[damage]
    spoil(made.folder)
    refused(made.folder, reason)


CONFIG_DAMAGES = [
    ("sae_lens", {"d_in": 8}, r"W_enc is \(16, 64\), not \(8, 64\)"),
    ("sae_lens", {"d_sae": None}, "not a sae_lens config"),
    ("sparsify", {"d_in": None}, "d_in is None"),
    ("sparsify", {"d_in": 8}, r"encoder.weight is \(64, 16\), not \(64, 8\)"),
    ("sparsify", {"k": 0}, "k is 0"),
    ("sparsify", {"k": D_SAE + 1}, "k is 65, with 64 features"),
    ("sparsify", {"k": True}, "k is True"),
    ("sparsify", {"num_latents": 1.5}, "num_latents is 1.5"),
    ("sparsify", {"num_latents": -4}, "num_latents is -4"),
    ("sparsify", {"num_latents": 0, "expansion_factor": None}, "expansion_factor is None"),
    ("llama_scope", {"d_model": None}, "d_model is None"),
    ("llama_scope", {"d_sae": "64"}, "d_sae is '64'"),
    ("llama_scope", {"d_sae": 32}, r"encoder.weight is \(64, 16\), not \(32, 16\)"),
    ("llama_scope", {"jump_relu_threshold": None}, "jump_relu_threshold is None"),
    ("llama_scope", {"jump_relu_threshold": float("nan")}, "jump_relu_threshold is nan"),
    ("llama_scope", {"dataset_average_activation_norm": {"in": 0}}, r"activation_norm.in is 0"),
    ("llama_scope", {"dataset_average_activation_norm": {}}, r"activation_norm.in is None"),
    ("llama_scope", {"dataset_average_activation_norm": None}, r"activation_norm.in is None"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), CONFIG_DAMAGES)
def test_a_config_that_cannot_be_meant_is_refused_with_the_reason(tmp_path, name, changes, reason):
    made = SAFE[name](tmp_path)
    change(made.folder / CONFIG.get(name, "cfg.json"), **changes)
    refused(made.folder, reason)


def arrays(path: Path, **changes):
    with np.load(path) as found:
        content = {**found, **changes}
    np.savez(path, **{key: value for key, value in content.items() if value is not None})


def member(path: Path, name: str, content: bytes, compress: int = zipfile.ZIP_STORED):
    """Replace one array of an archive by these bytes."""
    with zipfile.ZipFile(path) as archive:
        kept = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for each, data in {**kept, f"{name}.npy": content}.items():
            archive.writestr(each, data)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def flipped(path: Path):
    """A compressed archive with bytes of its largest member wrong."""
    with np.load(path) as found:
        np.savez_compressed(path, **found)
    content = bytearray(path.read_bytes())
    for at in range(2000, 2040):
        content[at] ^= 0xFF
    path.write_bytes(content)


NPZ = {
    "pickled objects": (lambda p: arrays(p, W_enc=np.array([[Hostile()] * 2] * 2, dtype=object)), "Python objects"),
    "pickled bias": (lambda p: arrays(p, b_dec=np.array([Hostile()] * D_MODEL, dtype=object)), "Python objects"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-60]), "is damaged"),
    "cut in the middle": (lambda p: p.write_bytes(p.read_bytes()[:3000]), "is damaged"),
    "empty": (lambda p: p.write_bytes(b""), "is damaged"),
    "no archive": (lambda p: p.write_bytes(b"\x93NUMPY" * 900), "is damaged"),
    "archive of nothing": (lambda p: zipfile.ZipFile(p, "w").close(), r"W_enc .* is missing"),
    "no encoder": (lambda p: arrays(p, W_enc=None), r"W_enc .* is missing"),
    "no threshold": (lambda p: arrays(p, threshold=None), "threshold is missing"),
    "NaN": (lambda p: arrays(p, b_enc=np.full(D_SAE, np.nan, np.float32)), "b_enc holds NaN"),
    "flat encoder": (lambda p: arrays(p, W_enc=np.zeros(7)), r"W_enc .* is \(7,\), not a matrix"),
    "turned decoder": (lambda p: arrays(p, W_dec=np.zeros((D_MODEL, D_SAE))), r"W_dec is \(16, 64\), not \(64, 16\)"),
    "whole numbers": (lambda p: arrays(p, W_dec=np.zeros((D_SAE, D_MODEL), int)), "int64, not floating-point"),
    "texts": (lambda p: arrays(p, b_dec=np.array(["0.5"] * D_MODEL)), "not floating-point"),
    "complex": (lambda p: arrays(p, b_dec=np.zeros(D_MODEL, complex)), "not floating-point"),
    "header of another size": (
        lambda p: member(p, "W_enc", npy(np.zeros((16, 64), np.float32)).replace(b"(16, 64)", b"(1600000000, 64)")),
        "is damaged",
    ),
    "longer than its header": (lambda p: member(p, "b_dec", npy(np.zeros(16, np.float32)) + b"xx"), "not as long as"),
    "negative sizes": (
        lambda p: member(p, "W_enc", npy(np.zeros((16, 64), np.float32)).replace(b"(16, 64)", b"(-4,-256)")),
        "is damaged",
    ),
    "no header": (lambda p: member(p, "W_enc", b"\x00" * 300), "is damaged"),
    "header that is no literal": (lambda p: member(p, "W_enc", header(b"{'descr': __import__('os')}\n")), "is damaged"),
    "header that never closes": (lambda p: member(p, "W_enc", header(b"{'descr': ((((('''" * 9)), "is damaged"),
    "header nested too deep": (lambda p: member(p, "W_enc", header(b"(" * 9000 + b"\n")), "is damaged"),
    "a version that there is not": (
        lambda p: member(p, "W_enc", b"\x93NUMPY\x07\x07" + npy(np.zeros(4))[8:]),
        "is damaged",
    ),
    "wrong compressed bytes": (flipped, "is damaged"),
}


@pytest.mark.parametrize("damage", NPZ)
def test_a_damaged_archive_is_refused_with_the_reason(tmp_path, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = folders.gemma_scope(tmp_path)
    spoil, reason = NPZ[damage]
    spoil(made.folder / "params.npz")
    refused(made.folder, reason)
    assert not Path("hacked").exists()


def test_archives_with_any_byte_wrong_are_read_or_refused(tmp_path):
    """No error of another kind, wherever the damage is."""
    made = folders.gemma_scope(tmp_path)
    path = made.folder / "params.npz"
    with np.load(path) as found:
        np.savez_compressed(path, **found)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    outcomes = set()
    for at in generator.choice(len(content), 300, replace=False):
        spoilt = bytearray(content)
        spoilt[at] = int(generator.integers(256))
        path.write_bytes(spoilt)
        try:
            info = inspect_dictionary(str(made.folder))
            load_dictionary(info)
            load_decoder(info)
            outcomes.add("read")
        except ConfigurationError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# Other kinds


def renamed(make, name):
    """In a folder of another name, as published SAEs of another place are."""

    def made(root):
        folder = make(root).folder
        return folder.rename(folder.with_name(name))

    return made


def configured(make, config, **changes):
    def made(root):
        folder = make(root).folder
        change(folder / config, **changes)
        return folder

    return made


def inside(make, *names):
    return lambda root: make(root.joinpath(*names)).folder


def skipping(root):
    folder = folders.gemma_scope_2(root).folder
    tensors(folder / "params.safetensors", affine_skip_connection=torch.zeros(D_MODEL, D_MODEL))
    return folder


def placed(place):
    def made(root):
        folder = folders.gemma_scope_2(root, config=False).folder
        (root / place).mkdir()
        return folder.rename(root / place / folder.name)

    return made


KINDS = {
    "sparsify of an MLP": (renamed(folders.sparsify, "layers.5.mlp"), "reads the mlp of a block"),
    "sparsify of attention": (renamed(folders.sparsify, "model.layers.5.self_attn"), "reads the self_attn of a block"),
    "sparsify of embeddings": (renamed(folders.sparsify, "embed_tokens"), "embeddings"),
    "sparsify of a vision tower": (
        renamed(folders.sparsify, "model.vision_tower.encoder.layers.3"),
        "not of the language model",
    ),
    "sparsify of a vision model": (renamed(folders.sparsify, "vision_model.layers.3"), "not of the language model"),
    "sparsify of vision": (renamed(folders.sparsify, "model.vision.layers.3"), "not of the language model"),
    "sparsify of visual blocks": (renamed(folders.sparsify, "model.visual.blocks.3"), "not of the language model"),
    "sparsify transcoder": (configured(folders.sparsify, "cfg.json", transcode=True), "a transcoder"),
    "sparsify with a skip": (configured(folders.sparsify, "cfg.json", skip_connection=True), "skip connection"),
    "sparsify groupmax": (configured(folders.sparsify, "cfg.json", activation="groupmax"), "groupmax"),
    "sparsify signed": (configured(folders.sparsify, "cfg.json", signed=True), "signs"),
    "Gemma Scope of MLPs": (inside(folders.gemma_scope, "gemma-scope-2b-pt-mlp"), "an MLP's output"),
    "Gemma Scope of attention": (inside(folders.gemma_scope, "gemma-scope-9b-pt-att"), "attention's output"),
    "Gemma Scope transcoder": (inside(folders.gemma_scope, "gemma-scope-2b-pt-transcoders"), "an MLP"),
    "Gemma Scope 2 of MLPs": (placed("mlp_out_all"), "an MLP's output"),
    "Gemma Scope 2 of attention": (placed("attn_out"), "attention's output"),
    "Gemma Scope 2 transcoder by its place": (placed("transcoder_all"), "an MLP"),
    "Gemma Scope 2 transcoder by its config": (
        configured(folders.gemma_scope_2, "config.json", hf_hook_point_out="model.layers.17.mlp.output"),
        "is a transcoder",
    ),
    "Gemma Scope 2 crosscoder": (
        configured(folders.gemma_scope_2, "config.json", type="crosscoder"),
        "is a crosscoder",
    ),
    "Gemma Scope 2 with a skip": (skipping, "skip connection"),
    "Gemma Scope 2 with a skip by its config": (
        configured(folders.gemma_scope_2, "config.json", affine_connection=True),
        "skip connection",
    ),
    "Gemma Scope 2 of another place": (
        configured(
            folders.gemma_scope_2,
            "config.json",
            hf_hook_point_in="model.layers.17.self_attn.o_proj.input",
            hf_hook_point_out=None,
        ),
        "reads model.layers.17.self_attn.o_proj.input",
    ),
    "Gemma Scope 2 of another architecture": (
        configured(folders.gemma_scope_2, "config.json", architecture="topk"),
        "jump_relu alone",
    ),
    "Llama Scope of MLPs": (
        configured(
            folders.llama_scope,
            "hyperparams.json",
            hook_point_in="blocks.15.hook_mlp_out",
            hook_point_out="blocks.15.hook_mlp_out",
        ),
        "reads blocks.15.hook_mlp_out",
    ),
    "Llama Scope transcoder": (
        configured(folders.llama_scope, "hyperparams.json", hook_point_out="blocks.15.hook_mlp_out"),
        "writes blocks.15.hook_mlp_out",
    ),
    "Llama Scope TopK": (configured(folders.llama_scope, "hyperparams.json", act_fn="topk"), "act_fn is topk"),
    "Llama Scope with a gated encoder": (
        configured(folders.llama_scope, "hyperparams.json", use_glu_encoder=True),
        "gated encoder",
    ),
    "Llama Scope of another normalisation": (
        configured(folders.llama_scope, "hyperparams.json", norm_activation="token-wise"),
        "token-wise",
    ),
    "Llama Scope without a bias": (
        configured(folders.llama_scope, "hyperparams.json", use_decoder_bias=False),
        "decoder bias",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_read_the_residual_stream_or_is_no_plain_sae_is_refused_by_name(tmp_path, kind):
    make, reason = KINDS[kind]
    refused(make(tmp_path), reason)


def test_a_folder_whose_name_resembles_another_place_is_no_other_place(tmp_path):
    """Only the folders that belong to the format are read for what an SAE is of."""
    for name in ("gemma_scope_2", "gemma_scope"):
        made = SAFE[name](tmp_path / "mlp_out" / "transcoder" / "embedding" / name)
        assert inspect_dictionary(str(made.folder)).format == name


def test_a_folder_without_an_sae_is_told_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"no SAE found in .* \(looked for sae_weights.safetensors, sae.safe"):
        inspect_dictionary(str(tmp_path))
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"has cfg.json and no weights beside it \(sae_weights.safetensors"):
        inspect_dictionary(str(tmp_path))


@pytest.mark.parametrize("make", folders.PICKLED.values(), ids=folders.PICKLED)
def test_no_run_reads_a_pickle_and_the_error_says_what_does(tmp_path, make):
    made = make(tmp_path)
    message = refused(made.folder, "a pickle")
    assert f"curate sae import {made.folder} --output DIR" in message
