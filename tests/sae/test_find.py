"""What `--sae` may name, in folders and in a hub's cache that lies on disk; and what is said of wrong names."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from sae_lens import StandardSAE
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting, sae_lens_disk_loader
from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

from curate.errors import ConfigurationError, CurateError, DataError
from curate.sae import find as module
from curate.sae import known
from curate.sae.find import find, folders_with_saes
from curate.sae.known import KnownSAE
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.sae import folders
from tests.sae.folders import HIDDEN, SAFE, close, lens, old


@dataclass
class Hub:
    """A hub's cache as its client lays it out, and a note of what was asked of it."""

    root: Path
    asked: list

    def snapshot(self, repo: str, commit: str = "a" * 40, *revisions: str) -> Path:
        """The folder of a commit, which these revisions, or else `main`, stand for."""
        here = self.root / f"models--{repo.replace('/', '--')}"
        for revision in revisions or ("main",):
            ref = here / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
        folder = here / "snapshots" / commit
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    real, asked = huggingface_hub.snapshot_download, []

    def noted(repo, **options):
        asked.append((repo, options["allow_patterns"], options["revision"]))
        return real(repo, cache_dir=tmp_path / "hub", **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", noted)
    return Hub(tmp_path / "hub", asked)


def refused(name, reason, kind: type[CurateError] = ConfigurationError) -> str:
    with pytest.raises(kind, match=reason) as caught:
        find(name)
    message = str(caught.value)
    assert message.startswith(f"--sae {name}: ")
    assert "\n" not in message
    return message


# Folders


@pytest.mark.parametrize("name", SAFE)
def test_a_folder_or_its_weights_name_the_same_sae(tmp_path, name, monkeypatch):
    made = SAFE[name](tmp_path)
    info = inspect_dictionary(str(made.folder))
    assert inspect_dictionary(f"{made.folder}/").sha256 == info.sha256
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    assert len(files) == 1 + (name != "gemma_scope")
    for file in files:
        found = inspect_dictionary(str(file))
        assert (found.sha256, found.hook_layer, found.path) == (info.sha256, info.hook_layer, info.path)
    monkeypatch.chdir(made.folder)
    assert inspect_dictionary(".").hook_layer == info.hook_layer


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (folders.sae_v, "sae_weights_v2.safetensors"),
        (folders.dictionary_learning, "ae_1.pt"),
        (folders.sparsify, "notes.txt"),
    ],
)
def test_another_file_beside_an_saes_weights_does_not_stand_for_them(tmp_path, make, name):
    file = make(tmp_path).folder / name
    file.write_bytes(b"")
    refused(str(file), r"not a known name of an SAE's weights \(sae_weights.safetensors, sae.*\); name the folder$")


@pytest.mark.parametrize("name", ["no-such-folder", "./no-such/folder", "/no/such/folder", "..", "a b", "a/b c", ""])
def test_a_name_of_no_known_form_is_told_the_forms(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "..":
        assert find(name)[0].path == Path("..")  # there is such a folder, with no SAE in it
        return
    message = refused(name, "no such folder") if name else ""
    assert not name or "RELEASE:SAE_ID of sae_lens" in message
    assert not name or "OWNER/REPO/FOLDER@REVISION" in message


# Releases of sae_lens


def test_gemma_2b_residual_saes_are_read_by_their_release(hub):
    folder = "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr"
    repo = "jbloom/Gemma-2b-Residual-Stream-SAEs"
    here = old(hub.snapshot(repo) / folder)
    info = inspect_dictionary("gemma-2b-res-jb:blocks.6.hook_resid_post")
    ((asked, patterns, revision),) = hub.asked
    assert (asked, revision) == (repo, None)
    assert {f"{folder}/{file}" for file in ("cfg.json", "sae_weights.safetensors", "activation_scaler.json")} <= set(
        patterns
    )
    assert (info.path, info.hook_layer, info.model_name, info.scale) == (here, 6, "gemma-2b", 1.0)
    close(load_dictionary(info).encode(HIDDEN), lens(here).encode(HIDDEN))
    assert info.sha256 == inspect_dictionary(str(here)).sha256


def test_a_scale_that_sae_lens_lists_for_files_of_no_revision_is_not_believed(hub):
    snapshot = hub.snapshot("jbloom/Gemma-2b-Residual-Stream-SAEs")
    layer_12 = snapshot / "gemma_2b_blocks.12.hook_resid_post_16384"
    old(layer_12, hook_point="blocks.12.hook_resid_post", normalize_activations="expected_average_only_in")
    assert get_norm_scaling_factor("gemma-2b-res-jb", "blocks.12.hook_resid_post") is not None
    for name in ("gemma-2b-res-jb:blocks.12.hook_resid_post", "gemma-2b-jb:12"):
        info = inspect_dictionary(name)
        assert (info.path, info.scale) == (layer_12, None)


def test_a_normalisation_that_sae_lens_lists_for_a_release_overrides_its_config(hub):
    here = old(hub.snapshot("JoshEngels/Mistral-7B-Residual-Stream-SAEs") / "mistral_7b_layer_8")
    info = inspect_dictionary("mistral-7b-res-wg:blocks.8.hook_resid_pre")
    overrides = {"normalize_activations": "constant_norm_rescale"}
    cfg, weights = sae_lens_disk_loader(here, "cpu", overrides)
    sae = StandardSAE.from_dict(handle_config_defaulting(cfg))
    sae.load_state_dict(weights)
    close(load_dictionary(info).encode(HIDDEN), sae.encode(HIDDEN))
    assert "constant_norm_rescale" in info.notes[-1]
    assert info.sha256 != inspect_dictionary(str(here)).sha256


@pytest.mark.parametrize(
    ("name", "make", "repo", "path"),
    [
        (
            "gemma-scope-2b-pt-res:layer_20/width_16k/average_l0_71",
            folders.gemma_scope,
            "google/gemma-scope-2b-pt-res",
            "layer_20/width_16k/average_l0_71",
        ),
        (
            "gemma-scope-2b-pt-res-canonical:layer_20/width_16k/canonical",
            folders.gemma_scope,
            "google/gemma-scope-2b-pt-res",
            "layer_20/width_16k/average_l0_71",
        ),
        (
            "llama_scope_lxr_8x:l15r_8x",
            folders.llama_scope,
            "fnlp/Llama3_1-8B-Base-LXR-8x",
            "Llama3_1-8B-Base-L15R-8x",
        ),
        (
            "gemma-scope-2-4b-it-res:layer_17_width_16k_l0_small",
            folders.gemma_scope_2,
            "google/gemma-scope-2-4b-it",
            "resid_post/layer_17_width_16k_l0_small",
        ),
    ],
)
def test_releases_in_other_formats_are_read(hub, name, make, repo, path):
    make(hub.snapshot(repo))
    source, entry = find(name)
    assert entry is None
    assert (source.repo, source.folder, source.overrides) == (repo, path, {})
    info = inspect_dictionary(name)
    assert (info.format, info.hook_layer) == (make.__name__, make(hub.root / "copy").facts["hook_layer"])
    # Its model is in the repository's name, where nothing else says it.
    assert "gemma-2-2b" in str(info.model_name) or info.model_name in (
        "meta-llama/Llama-3.1-8B",
        "google/gemma-3-4b-it",
    )
    assert all(
        pattern.startswith((f"{path}/", f"{path.rpartition('/')[0]}/")) for pattern in hub.asked[0][1] if "/" in path
    )


def test_llama_scopes_own_scale_wins_over_the_one_that_sae_lens_lists(hub):
    made = folders.llama_scope(hub.snapshot("fnlp/Llama3_1-8B-Base-LXR-8x"))
    assert inspect_dictionary("llama_scope_lxr_8x:l15r_8x").scale == pytest.approx(made.facts["scale"])


def test_a_pickled_release_is_refused_by_runs(hub):
    snapshot = hub.snapshot("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50")
    (snapshot / "layer12.sae.pt").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="curate sae import qwen-scope-3-8b-base-w64k-l50:layer12 --output"):
        inspect_dictionary("qwen-scope-3-8b-base-w64k-l50:layer12")
    # And of that repository the one file is asked for.
    assert [patterns for _, patterns, _ in hub.asked] == [["layer12.sae.pt"]]


def test_a_wrong_release_or_id_is_told_those_like_it(hub):
    assert "gemma-scope-2b-pt-res" in refused(
        "gemma-scope-2b-res:layer_0", "sae_lens has no release gemma-scope-2b-res"
    )
    message = refused("gemma-2b-res-jb:blocks.7.hook_resid_post", "has no blocks.7.hook_resid_post; it has blocks.")
    assert all(f"blocks.{layer}.hook_resid_post" in message for layer in (0, 6, 10, 12, 17))
    message = refused("gemma-scope-2b-pt-res:layer_6/width_16k/average_l0_7", "layer_6/width_16k/average_l0_7")
    assert "layer_6/width_16k/average_l0_70" in message
    assert "more" in message
    refused(
        "gpt2-small-hook-z-kk:blocks.0.hook_z", "in the format connor_rob_hook_z; these are read: sae_lens, sparsify"
    )
    assert hub.asked == []


# Folders on the hub


@pytest.mark.parametrize("name", SAFE)
def test_a_folder_on_the_hub_is_read_and_no_other_is_asked_for(hub, name, tmp_path):
    here = SAFE[name](tmp_path / "here")
    made = SAFE[name](hub.snapshot(here.repo))
    info = inspect_dictionary(f"{made.repo}/{made.path}")
    local = inspect_dictionary(str(made.folder))
    assert (info.path, info.sha256, info.hook_layer) == (made.folder, local.sha256, local.hook_layer)
    ((repo, patterns, revision),) = hub.asked
    assert (repo, revision) == (made.repo, None)
    assert not any("*" in pattern or ".." in pattern for pattern in patterns)
    above = made.path.rpartition("/")[0]
    beside = f"{above}/config.json" if above else "config.json"
    assert all(pattern.startswith(f"{made.path}/") or pattern == beside for pattern in patterns)
    assert {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()} <= {
        pattern.removeprefix(f"{made.path}/") for pattern in patterns
    }


def test_a_revision_names_the_commit_that_is_read(hub):
    first = old(hub.snapshot("someone/saes", "1" * 40, "v1") / "layer-3", d_sae=64)
    second = old(hub.snapshot("someone/saes", "2" * 40, "main") / "layer-3", seed=43)
    assert inspect_dictionary("someone/saes/layer-3").path == second
    assert inspect_dictionary("someone/saes/layer-3@v1").path == first
    assert inspect_dictionary(f"someone/saes/layer-3@{'1' * 40}").path == first
    assert [revision for _, _, revision in hub.asked] == [None, "v1", "1" * 40]
    refused("someone/saes/layer-3@v9", "could not be fetched", DataError)


def test_an_sae_may_lie_in_a_repositorys_root(hub):
    folder = old(hub.snapshot("someone/one-sae", "3" * 40, "main", "v1"))
    assert inspect_dictionary("someone/one-sae").path == folder
    assert inspect_dictionary("someone/one-sae@v1").path == folder
    assert inspect_dictionary("someone/one-sae/sae_weights.safetensors").path == folder


def test_a_repository_without_that_sae_is_told_what_it_has(hub):
    snapshot = hub.snapshot("someone/saes")
    for layer in range(8):
        old(snapshot / f"layer_{layer}")
    message = refused("someone/saes/layer_9", "someone/saes has no SAE in layer_9; it has layer_")
    assert message.endswith(" and 3 more")
    refused("someone/saes", "has no SAE in its root folder; it has layer_0, layer_1,")
    empty = hub.snapshot("someone/model")
    (empty / "config.json").write_text("{}")
    refused("someone/model/sae", "has no SAE in sae; nor anywhere else")


def test_a_folder_that_holds_many_is_told_to_name_one(hub):
    snapshot = hub.snapshot("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50")
    for layer in range(3):
        (snapshot / f"layer{layer}.sae.pt").write_bytes(b"")
    source, _ = find("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer1.sae.pt")
    assert (source.path, source.folder) == (snapshot, "layer1.sae.pt")
    refused("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer9.sae.pt", "no SAE in layer9.sae.pt; it has layer0.sae.pt")


@pytest.mark.parametrize("name", ["someone/saes/../../secret", "someone/saes/..", "someone/..", "a/b/c/../d"])
def test_no_name_leads_out_of_its_repository(hub, name):
    refused(name, "leads out of the repository")
    assert hub.asked == []


@pytest.mark.parametrize("name", ["someone/saes:layer-3", "someone/saes:a/b", "someone/saes:3"])
def test_the_old_spelling_is_told_the_new_one(hub, name):
    refused(name, f"is named {name.replace(':', '/')}, without a colon")
    assert hub.asked == []


def test_what_is_neither_here_nor_on_the_hub_is_told_both(hub):
    message = refused("runs/sae", "no such folder on this machine, and runs/sae could not be fetched", DataError)
    assert "NAME:LAYER" in message


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("sae-v-llava-next-7b", "PKU-Alignment/SAE-V"),
        ("gemma-2b-res-jb:blocks.6.hook_resid_post", "jbloom/Gemma-2b-Residual-Stream-SAEs"),
    ],
)
def test_a_listed_name_that_cannot_be_fetched_is_told_its_repository_and_nothing_of_folders(hub, name, repo):
    refused(name, f"^--sae {name}: {repo} could not be fetched from the Hugging Face hub", DataError)


# The table of known SAEs


def test_a_known_name_stands_for_its_repository_folder_and_revision(hub, monkeypatch):
    entry = KnownSAE.model_validate(
        {
            **{"name": "mine", "repo": "someone/saes", "folder": "layer_{layer}", "revision": "1" * 40},
            **{"format": "sae_lens", "models": ("a", "b"), "layers": (3, 5), "d_sae": 64, "architecture": "standard"},
            **{"trained_on": "text", "licence": "MIT", "overrides": {"normalize_activations": "none"}},
        }
    )
    monkeypatch.setattr(known, "known_sae", lambda name: entry if name == "mine" else None)
    snapshot = hub.snapshot("someone/saes", "1" * 40, "v1")
    for layer in (3, 5):
        old(snapshot / f"layer_{layer}", normalize_activations="expected_average_only_in")
    info = inspect_dictionary("mine:5")
    # Known to be folded, so that nothing is tried.
    assert (info.path, info.scale) == (snapshot / "layer_5", 1.0)
    assert "as listed for this release" in info.notes[-2]
    assert (info.fits, info.licence, info.name) == (("a", "b"), "MIT", "mine:5")
    assert "published under MIT" in info.notes[-1]
    assert inspect_dictionary("mine:3").path == snapshot / "layer_3"
    with pytest.raises(ConfigurationError, match=r"name one of its layers \(3, 5\), as in --sae mine:5"):
        inspect_dictionary("mine")
    # A folder here comes first.
    monkeypatch.chdir(snapshot)
    shutil.copytree("layer_3", "mine:5")
    assert inspect_dictionary("mine:5").scale is None


def test_saes_among_a_repositorys_files_are_named_as_they_are_to_be_asked_for():
    files = [
        "README.md",
        "config.json",
        "sae.safetensors",
        "a/cfg.json",
        "a/sae_weights.safetensors",
        "b/c/params.npz",
        "b/checkpoints/final.safetensors",
        "b/model.safetensors",
        "layer0.sae.pt",
        "d/layer12.sae.pt",
        "e/ae.pt",
    ]
    expected = ["the root folder", "a", "b/c", "b", "layer0.sae.pt", "d/layer12.sae.pt", "e"]
    assert folders_with_saes(files) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "https://huggingface.co/a/b",
        "s3://bucket/sae",
        "x" * 300,
        "line\nbreak",
        "\udc80",
        "a/b/c@../../d",
        "a/b/*",
        "a/b/[x]",
    ],
)
def test_what_is_no_name_is_refused_in_a_line(name, monkeypatch):
    monkeypatch.setattr(module, "fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(
        ConfigurationError, match=r"^--sae .*(not a name of an SAE. Give a folder,|leads out|may stand for several)"
    ):
        find(name)
