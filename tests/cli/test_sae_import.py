"""`curate sae import` in this process: what it writes, prints and refuses; and `curate sae`'s shared options."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from curate import demo
from curate.cli import sae_fold, sae_import, sae_info
from curate.cli.main import app
from curate.cli.sae_measuring import Measuring, On
from curate.sae.decoder import load_decoder
from curate.sae.info import describe
from curate.sae.load import inspect_dictionary, load_dictionary
from tests.harvest.test_fold import demo_copy
from tests.sae import folders
from tests.sae.folders import HIDDEN, edit
from tests.sae.test_formats import agrees


def curate(*arguments: object):
    environment = {"COLUMNS": "110", "HF_HUB_OFFLINE": "1"}
    return CliRunner().invoke(app, ["sae", "import", *map(str, arguments)], env=environment)


def refused(*arguments: object) -> str:
    result = curate(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *progress, last = result.stderr.splitlines()
    assert last.startswith("error: ")
    assert len(progress) <= 1
    return last


@pytest.mark.parametrize(
    "make", [folders.sparsify, folders.gemma_scope, folders.dictionary_learning, folders.qwen_scope]
)
def test_a_copy_is_written_and_said(tmp_path, make):
    made = make(tmp_path / "source")
    result = curate(made.folder, "--output", tmp_path / "copy", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    info = inspect_dictionary(str(tmp_path / "copy"))
    agrees(load_dictionary(info).encode(HIDDEN), made.encode(HIDDEN.double().numpy()))
    assert (found["format"], found["sha256"], found["units"]) == (make.__name__, info.sha256, "raw")
    assert (found["architecture"], found["hook_layer"]) == (info.architecture, info.hook_layer)
    assert (found["activation_scale"], found["reading"]) == (1.0, None)
    origin = info.metadata["imported_from"]
    assert (origin["name"], origin["format"]) == (str(made.folder), make.__name__)
    assert len(origin["sha256"]) == 64
    assert f"{make.__name__}, {info.d_sae:,} features, " in result.stderr
    assert "not an empty folder" in refused(made.folder, "--output", tmp_path / "copy")


def test_a_scale_that_is_known_is_in_the_copys_weights_and_metadata(tmp_path):
    made = folders.llama_scope(tmp_path / "source")
    result = curate(made.folder, "--output", tmp_path / "copy", "--on", "no/such/model")
    assert result.exit_code == 0, result.output
    assert "note: folded the activation scale" in result.stderr
    assert "--on no/such/model: not used" in result.stderr
    assert f"copy: {tmp_path / 'copy'}" in result.stdout
    info = inspect_dictionary(str(tmp_path / "copy"))
    assert (info.scale, info.units, info.default_delta) == (1.0, "normalised", 1.0)
    assert info.metadata["activation_scale"] == pytest.approx(made.facts["scale"])
    agrees(load_dictionary(info).encode(HIDDEN), made.encode(HIDDEN.double().numpy()))


@pytest.mark.parametrize("undo", [True, False], ids=["unfolded", "folded"])
def test_an_open_scale_is_measured_and_recorded_and_folded_once(tmp_path, undo):
    folder, true = demo_copy(tmp_path / "source", undo)
    message = refused(folder, "--output", tmp_path / "copy")
    assert f"curate sae import {folder} --on MODEL --output DIR" in message
    result = curate(folder, "--output", tmp_path / "copy", "--on", "demo", "--limit", 24, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    info = inspect_dictionary(str(tmp_path / "copy"))
    metadata = info.metadata
    state = "unfolded" if undo else "folded"
    assert found["reading"]["taken"] == metadata["activation_scale_reading"]["taken"] == state
    assert metadata["activation_scale_reading"]["unexplained"] == found["reading"]["unexplained"]
    assert metadata["activation_scale_reading"]["model"] == "demo"
    assert (metadata["activation_units"], info.units, info.scale) == ("normalised", "normalised", 1.0)
    hidden = torch.randn(100, 96, generator=torch.Generator().manual_seed(0)) * 5
    z = load_dictionary(info).encode(hidden)
    if undo:
        assert metadata["activation_scale"] == found["activation_scale"] == pytest.approx(true, rel=0.05)
        assert metadata["activation_scale_estimated_from"]["rows"] == 24
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": found["activation_scale"]}))
        torch.testing.assert_close(z, load_dictionary(inspect_dictionary(str(folder))).encode(hidden))
    else:
        assert "activation_scale" not in metadata
        told = describe(info)
        assert (told["activation_scale"], told["folded"]) == (None, "in the weights")
        shown = " ".join(CliRunner(env={"COLUMNS": "200"}).invoke(app, ["sae", "info", str(info.path)]).stdout.split())
        assert "none; scale folded in the weights, as measured" in shown
        torch.testing.assert_close(z, load_dictionary(inspect_dictionary(str(demo.SAE))).encode(hidden))


def test_what_cannot_be_told_is_not_imported_but_the_advice_helps(tmp_path):
    folder = Path(folders.old(tmp_path / "source", normalize_activations=True, architecture="standard"))
    assert "hidden states of width 16" in refused(folder, "--output", tmp_path / "copy", "--on", "demo")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 1.0}')
    assert curate(folder, "--output", tmp_path / "copy").exit_code == 0
    assert inspect_dictionary(str(tmp_path / "copy")).units == "normalised"


def test_decoder_norms_are_folded_where_asked(tmp_path):
    assert curate("demo", "--output", tmp_path / "copy", "--fold-decoder-norm").exit_code == 0
    source, copy = inspect_dictionary(str(demo.SAE)), inspect_dictionary(str(tmp_path / "copy"))
    hidden = torch.randn(100, 96, generator=torch.Generator().manual_seed(0)) * 5
    norms = load_decoder(source).weight.norm(dim=1)
    torch.testing.assert_close(load_dictionary(copy).encode(hidden), load_dictionary(source).encode(hidden) * norms)
    assert copy.units == "raw"
    made = folders.sparsify(tmp_path / "topk")
    assert "TopK" in refused(made.folder, "--output", tmp_path / "other", "--fold-decoder-norm")


def test_a_layer_is_recorded_where_the_source_says_none(tmp_path):
    made = folders.sparsify(tmp_path)
    renamed = made.folder.rename(tmp_path / "mine")
    assert curate(renamed, "--output", tmp_path / "copy", "--hook-layer", 24).exit_code == 0
    assert inspect_dictionary(str(tmp_path / "copy")).hook_layer == 24
    message = refused(tmp_path / "copy", "--output", tmp_path / "again", "--hook-layer", 3)
    assert "--hook-layer 3: " in message


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no-such-sae", "no such folder, and no other name of an SAE"),
        ("someone/saes:layer", "someone/saes/layer, without a colon"),
        ("gemma-2b-res-jb:nothing", "has no nothing; it has "),
    ],
)
def test_what_is_no_sae_is_one_line(tmp_path, source, reason):
    assert reason in refused(source, "--output", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_pickle_is_one_line(tmp_path):
    made = folders.qwen_scope(tmp_path / "source")
    torch.save({"W_enc": Path}, made.folder)
    message = refused(made.folder, "--output", tmp_path / "copy")
    assert "cannot be imported: it holds more than tensors" in message
    assert not (tmp_path / "copy").exists()


def test_an_old_format_is_noted(tmp_path):
    folder = folders.old(tmp_path / "source")
    result = curate(folder, "--output", tmp_path / "copy")
    assert result.stderr.count("note: old format") == 3
    edit(tmp_path / "copy")
    assert inspect_dictionary(str(tmp_path / "copy")).notes == ()


@pytest.mark.parametrize("verb", [sae_fold.fold, sae_import.import_, sae_info.info])
def test_options_of_measuring_are_the_same_for_every_verb_that_measures(verb):
    parameters = inspect.signature(verb).parameters
    for name, field in inspect.signature(Measuring).parameters.items():
        assert parameters[name].annotation == field.annotation
        assert parameters[name].default == field.default
    assert "measuring" not in parameters
    assert verb is sae_fold.fold or parameters["on"].annotation is On
