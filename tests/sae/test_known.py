"""The table of known SAEs: whole, unambiguous, and as sae_lens's registry has it where that lists the same SAE."""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from curate.errors import ConfigurationError
from curate.sae.known import PICKLED, KnownSAE, KnownSAEs, default_sae, known_sae, known_saes, named
from tests.sae import known_page

FORMATS = get_args(KnownSAE.model_fields["format"].annotation)
# What sae_lens calls the readers of the formats; null is its own format.
READERS = {
    None: "sae_lens",
    "gemma_3": "gemma_scope_2",
    "gemma_2": "gemma_scope",
    "llama_scope": "llama_scope",
    "dictionary_learning_1": "dictionary_learning",
    "qwen_scope": "qwen_scope",
}
# Published outside the registry.
ELSEWHERE = {"PKU-Alignment/SAE-V", "lmms-lab/llama3-llava-next-8b-hf-sae-131k"}

each = pytest.mark.parametrize("sae", known_saes(), ids=lambda sae: sae.name)


@pytest.fixture(scope="module")
def registry():
    """By repository and folder: the release, and the entry in it. sae_lens is not imported, which takes seconds."""
    found = importlib.util.find_spec("sae_lens")
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "pretrained_saes.yaml").read_text()
    releases = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    entries = {
        (release["repo_id"], str(entry["path"])): (release, entry)
        for release in releases.values()
        for entry in release["saes"]
    }
    return set(releases), entries


def test_names_are_unique_and_mean_nothing_else(registry):
    releases, _ = registry
    names = [sae.name for sae in known_saes()]
    assert len(set(names)) == len(names)
    # RELEASE:SAE_ID and NAME:LAYER are told apart by what comes first.
    assert not releases & set(names)


def test_a_model_has_one_default_at_most():
    models = Counter(model.rpartition("/")[2].lower() for sae in known_saes() for model in sae.default_for)
    assert set(models.values()) == {1}
    assert not any(sae.pickled or len(sae.layers) > 1 for sae in known_saes() if sae.default_for)


def test_every_format_is_in_the_table_and_every_pickle_is_a_format():
    assert {sae.format for sae in known_saes()} == set(FORMATS)
    assert set(PICKLED) < set(FORMATS)


@each
def test_every_layer_has_a_folder_of_its_own(sae):
    folders = [sae.folder_of(layer) for layer in sae.layers]
    assert len(set(folders)) == len(sae.layers)
    assert not any(set("{}") & set(folder) for folder in folders)


@each
def test_it_is_what_the_registry_lists(sae, registry):
    if sae.repo in ELSEWHERE:
        return
    for layer in sae.layers:
        release, entry = registry[1][sae.repo, sae.folder_of(layer)]
        assert READERS[release["conversion_func"]] == sae.format
        # Releases are called by full names or by sae_lens's short ones, which leave out the owner and the version.
        assert sae.models[0].lower().startswith(release["model"].lower()) or release["model"] in sae.models[0].lower()
        assert sae.overrides == release.get("config_overrides", {})
        number = re.search(r"\d+", entry["id"])
        assert number is not None
        assert int(number[0]) - entry["id"].endswith("resid_pre") == layer


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    sae = known_sae("gemma-scope-2-4b-it-65k")
    assert sae is not None
    with pytest.raises(ConfigurationError, match="no such layer; its layers: 9, 17, 22, 29"):
        sae.folder_of(16)


def test_irregular_folders():
    found = {name: known_sae(name) for name in ("mistral-7b-wg", "gemma-2b-jb", "gemma-scope-2b-pt-16k")}
    assert found["mistral-7b-wg"].folder_of(7) == "mistral_7b_layer_8"
    assert found["gemma-2b-jb"].folder_of(6) == "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr"
    assert found["gemma-2b-jb"].folder_of(12) == "gemma_2b_blocks.12.hook_resid_post_16384"
    assert found["gemma-scope-2b-pt-16k"].folder_of(20) == "layer_20/width_16k/average_l0_71"


def test_defaults_go_by_the_last_part_of_the_name():
    for model in ("llava-hf/llava-v1.6-mistral-7b-hf", "/models/LLaVA-v1.6-Mistral-7B-hf", "llava-v1.6-mistral-7b-hf/"):
        assert default_sae(model) is known_sae("sae-v-llava-next-7b")
    assert default_sae("facebook/chameleon-7b") is known_sae("sae-v-chameleon-7b")
    assert default_sae("mistralai/Mistral-7B-v0.1") is None
    assert default_sae("") is None


def test_an_sae_is_named_with_its_layer_where_it_has_several():
    one, several = known_sae("sae-v-llava-next-7b"), known_sae("mistral-7b-wg")
    assert named("sae-v-llava-next-7b") == named("sae-v-llava-next-7b:16") == (one, 16)
    assert named("mistral-7b-wg:15") == (several, 15)
    assert named("nope") is named("nope:3") is named("gemma-2b-res-jb:blocks.6.hook_resid_post") is None
    for text in ("mistral-7b-wg", "mistral-7b-wg:", "mistral-7b-wg:16", "mistral-7b-wg:x", "mistral-7b-wg:²"):
        with pytest.raises(ConfigurationError, match=r"its layers \(7, 15, 23\), as in --sae mistral-7b-wg:15"):
            named(text)
    with pytest.raises(ConfigurationError, match=r"its layers \(16\), as in --sae sae-v-llava-next-7b$"):
        named("sae-v-llava-next-7b:17")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": [3, 2]}, "layers must ascend"),
        ({"layers": [2, 3], "parts": [1], "folder": "{part}"}, "parts must be one for each layer"),
        ({"parts": [1]}, "parts must be one for each layer"),
        ({"default_for": ["a/other"]}, "default for a/other"),
        ({"format": "pickle"}, "format"),
        ({"size": 3}, "size"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change, says):
    entry = {
        **{"name": "x", "repo": "a/b", "folder": "f", "format": "sae_lens", "models": ["a/model"]},
        **{"layers": [2], "d_sae": 8, "architecture": "standard"},
    }
    assert KnownSAEs.model_validate([entry]).root[0].folder_of(2) == "f"
    with pytest.raises(ValidationError, match=says):
        KnownSAEs.model_validate([{**entry, **change}])


def test_what_a_reader_sees_of_layers_and_sizes():
    shown = {sae.name: (sae.layer_text, sae.size_text) for sae in known_saes()}
    assert shown["sae-v-llava-next-7b"] == ("16", None)
    assert shown["mistral-7b-wg"] == ("7, 15, 23", None)
    assert shown["llama-scope-8x"] == ("0 to 31", "537 MB")
    assert shown["llama-scope-32x"] == ("0 to 31", "2.15 GB")


def test_the_page_has_the_table():
    text = known_page.PAGE.read_text()
    assert text == known_page.with_table(text), "run make generated"


def test_the_table_needs_no_torch():
    code = """
import sys
from curate.sae.known import known_saes
import curate.cli.saes
known_saes()
print({"torch", "transformers", "sae_lens"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "set()"
