"""`curate sae info`, of SAEs of every format; what it says is compared with the files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer import Typer
from typer.testing import CliRunner

from curate import demo
from curate.cli import sae_info
from curate.errors import ConfigurationError
from curate.sae import load
from curate.sae.load import inspect_dictionary
from tests.harvest.test_fold import demo_copy
from tests.sae.folders import D_MODEL, D_SAE, SAFE, configs, edit, old, saved

app = Typer()
app.command()(sae_info.info)


def shown(name, *options):
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(name), *options])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def facts(name):
    return json.loads(shown(name, "--json"))


def test_the_demo_dictionary_is_described_as_its_files_have_it():
    found = facts("demo")
    tensors = load_file(demo.SAE / "sae_weights.safetensors")
    metadata = json.loads((demo.SAE / "cfg.json").read_text())["metadata"]
    norms = sorted(float((row * row).sum()) ** 0.5 for row in tensors["W_dec"])
    thresholds = tensors["threshold"].tolist()
    middle = (norms[383] + norms[384]) / 2
    assert found["decoder_norms"] == pytest.approx([norms[0], middle, norms[-1]], rel=1e-5)
    assert found["thresholds"][::2] == [min(thresholds), max(thresholds)]
    assert (found["architecture"], found["trained_as"], found["k"]) == ("jumprelu", "batchtopk", None)
    assert (found["d_model"], found["d_sae"], found["expansion"], found["dtype"]) == (96, 768, 8.0, "float32")
    assert (found["hook_layer"], found["hook_name"]) == (2, "blocks.2.hook_resid_post")
    assert found["bytes"] == sum(file.stat().st_size for file in demo.SAE.iterdir())
    assert (found["format"], found["units"], found["default_delta"]) == ("sae_lens", "normalised", 1.0)
    assert (found["licence"], found["fits"], found["reading"]) == (None, [], None)
    assert found["sha256"] == inspect_dictionary(str(demo.SAE)).sha256
    assert found["model_hash"] == metadata["model_hash"]
    assert (found["activation_scale"], found["folded"]) == (metadata["activation_scale"], "in the weights")
    assert (found["l0"], found["dead_features"]) == (metadata["l0"], metadata["num_dead_features"])
    assert found["training"]["training.tokens"] == metadata["training"]["tokens"]
    assert found["training"]["training_architecture_details.k"] == 12
    assert found["notes"] == []


def test_it_fits_one_screen_and_says_all_that_the_json_says():
    text = shown("demo")
    assert len(text.splitlines()) <= 24
    joined = "".join(text.split())
    for value in facts("demo").values():
        if isinstance(value, str):
            assert value.replace(" ", "") in joined
    for part in ("768=8×96", "trainedbatchtopk", "training.seed0", "scale0.2142837", "0.4572to0.4572"):
        assert part in joined


@pytest.mark.parametrize("sae", list(configs())[:5], ids=lambda sae: sae.cfg.architecture())
def test_every_architecture_is_described(tmp_path, sae):
    name = saved(tmp_path, sae)
    found = facts(name)
    assert found["architecture"] == sae.cfg.architecture()
    assert found["k"] == (7 if sae.cfg.architecture() == "topk" else None)
    assert (found["thresholds"] is None) == (sae.cfg.architecture() != "jumprelu")
    assert (found["folded"], found["model_name"], found["trained_as"]) == (None, None, None)
    text = shown(name)
    assert ("7 active features" in text) == (found["k"] == 7)
    assert "the file does not say" in text


def test_an_old_format_is_described_and_said(tmp_path):
    name = old(tmp_path / "sae", normalize_activations=True)
    found = facts(name)
    assert (found["folded"], found["activation_scale"], found["reading"]) == ("open", None, None)
    assert (found["training"]["lr"], found["training"]["dataset_path"]) == (0.0004, "HuggingFaceFW/fineweb")
    assert found["notes"] == list(inspect_dictionary(str(name)).notes)
    text = shown(name)
    assert f"curate sae info {name} --on MODEL measures it" in " ".join(text.split()).replace("- ", "-")
    assert text.count("note: ") == len(found["notes"]) == 4
    (name / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    assert (facts(name)["folded"], facts(name)["activation_scale"]) == ("on loading", 0.25)
    assert "0.25, folded on loading" in shown(name)


@pytest.mark.parametrize("undo", [True, False], ids=["unfolded", "folded"])
def test_an_open_scale_is_measured_where_a_model_is_named(tmp_path, undo):
    name, scale = demo_copy(tmp_path / "sae", undo)
    reading = json.loads(shown(name, "--on", "demo", "--limit", "24", "--json"))["reading"]
    assert reading["taken"] == ("unfolded" if undo else "folded")
    assert reading["estimated_scale"] == pytest.approx(scale, rel=0.05)
    assert set(reading["unexplained"]) == {"text", "image"}
    text = " ".join(shown(name, "--on", "demo", "--limit", "24").split())
    assert f"scale {'not folded' if undo else 'folded into the weights'}, as measured: " in text
    for figures in reading["unexplained"].values():
        assert f"{figures['folded']:.3f} if folded" in text
        assert f"{figures['unfolded']:.3f} if not" in text


def test_a_model_is_not_loaded_where_nothing_is_open(monkeypatch):
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["demo", "--on", "no/such/model", "--json"])
    assert result.exit_code == 0
    assert "not used, since the activation scale is known" in result.stderr
    assert json.loads(result.stdout)["reading"] is None


@pytest.mark.parametrize("name", SAFE)
def test_every_format_is_described(tmp_path, name):
    made = SAFE[name](tmp_path)
    found, text = facts(made.folder), shown(made.folder)
    info = inspect_dictionary(str(made.folder))
    assert (found["format"], found["units"], found["default_delta"]) == (info.format, info.units, info.default_delta)
    assert found["dtype"] == ("bfloat16" if name in ("sparsify", "llama_scope") else "float32")
    norms = np.linalg.norm(made.tensors["W_dec"], axis=1)
    assert found["decoder_norms"][::2] == pytest.approx([norms.min(), norms.max()], rel=1e-5)
    assert found["hook_layer"] == made.facts["hook_layer"]
    weights = [path for path in made.folder.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in weights)
    assert f"{info.format}, {found['bytes']:,} bytes" in text
    assert ("raw, of the residual stream; active above" in text) == (info.units == "raw")
    if name == "llama_scope":
        assert found["activation_scale"] == made.facts["scale"]
        assert found["folded"] == "on loading"


def test_a_licence_is_shown_where_it_is_known(tmp_path, monkeypatch):
    info = inspect_dictionary(str(saved(tmp_path, next(configs()))))
    monkeypatch.setattr(load, "inspect_dictionary", lambda name: replace(info, licence="CC BY-NC 4.0", fits=("a/b",)))
    found = facts("known")
    assert (found["licence"], found["fits"]) == ("CC BY-NC 4.0", ["a/b"])
    assert "CC BY-NC 4.0" in shown("known")


def test_half_precision_is_said(tmp_path):
    path = saved(tmp_path, next(configs())) / "sae_weights.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    assert facts(tmp_path)["dtype"] == "bfloat16"


def test_hostile_words_are_text(tmp_path):
    evil = "[red]\x1b[31m\u202e\nname"
    metadata = {"model_name": evil, "sae_lens_version": 6, "training": {evil: [evil]}, "l0": evil, "x": "y" * 10_000}
    name = edit(saved(tmp_path, next(configs())), metadata=metadata)
    text = shown(name)
    assert "[red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text) < 5_000
    assert facts(name)["model_name"] == evil


def test_weights_that_are_not_those_of_the_config_are_refused(tmp_path):
    name = edit(saved(tmp_path, next(configs())), d_sae=D_SAE * 2)
    with pytest.raises(ConfigurationError, match=r"W_dec is \(64, 16\), not \(128, 16\)"):
        shown(name)
    assert torch.Size((D_SAE, D_MODEL)) == load_file(tmp_path / "sae_weights.safetensors")["W_dec"].shape
