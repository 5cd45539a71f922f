"""A model and an SAE that do not belong together are refused, by the names that were typed."""

import json
import shutil

import pytest

from curate import demo
from curate.errors import ConfigurationError, DataError
from curate.sae import find
from curate.scoring.pair import agree

LLAVA = "llava-hf/llava-v1.6-mistral-7b-hf"


def test_a_known_sae_of_another_model_is_refused_before_it_is_fetched(monkeypatch):
    def fetch(repo: str, *_: object) -> None:
        raise DataError(f"{repo} was asked for")

    monkeypatch.setattr(find, "fetch", fetch)
    gemma = "gemma-scope-2-4b-it-65k:17"
    said = (
        f"--sae {gemma} was trained on google/gemma-3-4b-it, and the model is {LLAVA}: see curate saes --model {LLAVA}"
        ", or take it all the same with --allow-model-mismatch, as for a fine-tuned copy of that model"
    )
    with pytest.raises(ConfigurationError) as refused:
        agree(LLAVA, gemma, None)
    assert str(refused.value) == said
    for model, allowed in ((LLAVA, True), ("google/gemma-3-4b-it", False)):
        with pytest.raises(DataError, match="google/gemma-scope-2-4b-it was asked for"):
            agree(model, gemma, None, allowed)


def test_a_name_too_long_for_a_path_is_no_name_of_an_sae():
    with pytest.raises(ConfigurationError, match=r"^--sae 'x+': not a name of an SAE"):
        agree("demo", "x" * 300, None)


def test_an_sae_of_other_weights_is_refused_or_noted(tmp_path):
    model = shutil.copytree(demo.MODEL, tmp_path / "tuned")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "note": "changed"}))
    with pytest.raises(ConfigurationError, match=rf"^--sae demo was trained on a model with hash .* is {model}: see"):
        agree(str(model), "demo", None)
    [note] = agree(str(model), "demo", None, allow_model_mismatch=True).notes
    assert note.startswith("the SAE was trained on a model with hash")
    assert agree("demo", "demo", None).notes == ()
