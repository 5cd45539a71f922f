"""Scales estimated and folded: against sae_lens's own folding, and on the demo, whose true scale is known."""

import json
from dataclasses import replace

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from typer import Typer
from typer.testing import CliRunner

from curate import demo
from curate.cli import sae_fold
from curate.datasets import DatasetSpec, open_dataset
from curate.errors import ConfigurationError
from curate.harvest import fold as module
from curate.harvest.evaluate_job import HELD_OUT_SEED
from curate.harvest.fold import check_foldable, fold
from curate.models import ModelSpec
from curate.models.packing import pack
from curate.pipeline.job import ScoreJob, plan
from curate.sae.decoder import load_decoder
from curate.sae.dictionary import inspect_dictionary, load_dictionary
from curate.sae.scale import estimate_scale
from curate.sample import Sample
from tests.sae.test_decoder import close, of
from tests.sae.test_dictionary import D_MODEL, D_SAE, HIDDEN, configs, edit, old, saved

SCALE = D_MODEL**0.5 / (sum(float((row * row).sum()) ** 0.5 for row in HIDDEN) / len(HIDDEN))


def unfolded(folder, sae):
    return inspect_dictionary(edit(saved(folder, sae), normalize_activations="expected_average_only_in"))


@pytest.mark.parametrize("chunks", [[200], [1, 0, 150, 49]])
def test_the_estimate_is_root_d_over_the_mean_norm(chunks):
    assert estimate_scale(HIDDEN.split(chunks)) == pytest.approx(SCALE, rel=1e-6)


def test_the_estimate_is_taken_in_full_precision():
    chunks = [torch.full((1000, 4), 1.0, dtype=torch.bfloat16)] * 30 + [torch.full((30_000, 4), 3.0).bfloat16()]
    assert estimate_scale(chunks) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [([], "are none"), ([HIDDEN[:0]], "are none"), ([HIDDEN * 0], "zero"), ([HIDDEN * float("nan")], "NaN")],
)
def test_no_estimate_is_made_up(hidden, message):
    with pytest.raises(ConfigurationError, match=message):
        estimate_scale(hidden)


@pytest.mark.parametrize("sae", list(configs())[:10], ids=of)
def test_a_folded_copy_does_what_sae_lens_does_with_the_scale_folded(tmp_path, sae):
    info = unfolded(tmp_path / "old", sae)
    scale = fold(info, HIDDEN.split(64), tmp_path / "new", {"model": "m"})
    assert scale == pytest.approx(SCALE, rel=1e-6)
    expected = SAE.load_from_disk(info.path)
    # Activations keep their normalised units, which sae_lens's folding changes where it rescales by decoder norms.
    z = expected.encode(HIDDEN * scale)
    expected.fold_activation_norm_scaling_factor(scale)
    copy = SAE.load_from_disk(tmp_path / "new")
    close(copy.encode(HIDDEN), z)
    close(copy(HIDDEN), expected(HIDDEN))
    found = inspect_dictionary(str(tmp_path / "new"))
    close(load_dictionary(found).encode(HIDDEN), z)
    close(load_decoder(found).decode(z.detach(), HIDDEN), expected(HIDDEN))
    close(load_dictionary(replace(info, scale=scale)).encode(HIDDEN), z)
    assert (found.scale, found.hook_layer, found.notes, found.k) == (1.0, 3, (), info.k)
    assert copy.cfg.metadata.activation_scale == scale
    assert copy.cfg.metadata.activation_scale_estimated_from == {"model": "m", "tokens": 200}


def test_an_old_files_words_and_factors_come_along(tmp_path):
    factor = torch.rand(D_SAE, generator=torch.Generator().manual_seed(3)) + 0.5
    path = old(tmp_path / "old", factor, finetuning_scaling_factor=True, normalize_activations=True)
    info = inspect_dictionary(str(path))
    scale = fold(info, [HIDDEN], tmp_path / "new", {})
    tensors = load_file(path / "sae_weights.safetensors")
    z = ((HIDDEN * scale - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).clamp(min=0)
    copy = SAE.load_from_disk(tmp_path / "new")
    close(copy(HIDDEN), ((z * factor) @ tensors["W_dec"] + tensors["b_dec"]) / scale)
    metadata = copy.cfg.metadata
    assert (metadata.model_name, metadata.hook_name, metadata.lr) == ("gemma-2b", "blocks.6.hook_resid_post", 0.0004)
    assert "finetuning_scaling_factor" not in metadata
    found = inspect_dictionary(str(tmp_path / "new"))
    assert (found.hook_layer, found.model_name, found.notes) == (6, "gemma-2b", ())


def test_nothing_is_written_where_something_is(tmp_path):
    info = unfolded(tmp_path / "old", next(configs()))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        fold(info, [HIDDEN], tmp_path / "new", {})
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        fold(info, [HIDDEN], tmp_path / "file", {})
    with pytest.raises(ConfigurationError, match="cannot be written"):
        fold(info, [HIDDEN], tmp_path / "file" / "new", {})
    (tmp_path / "empty").mkdir()
    fold(info, [HIDDEN], tmp_path / "empty", {})
    assert {file.name for file in tmp_path.iterdir()} == {"old", "new", "file", "empty"}


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    info = unfolded(tmp_path / "old", next(configs()))

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left"):
        fold(info, [HIDDEN], tmp_path / "new", {})
    assert [file.name for file in tmp_path.iterdir()] == ["old"]


def test_what_needs_no_estimate_is_not_folded_again(tmp_path):
    folder = saved(tmp_path / "sae", next(configs()))
    with pytest.raises(ConfigurationError, match="there is no scale to fold"):
        check_foldable(inspect_dictionary(str(folder)), tmp_path / "new")
    name = edit(folder, normalize_activations="expected_average_only_in")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    with pytest.raises(ConfigurationError, match=r"0\.25 is known"):
        check_foldable(inspect_dictionary(name), tmp_path / "new")


@pytest.fixture
def demo_unfolded(tmp_path):
    """The demo's dictionary as it would be had its scale never been folded in, nor written anywhere."""
    config = json.loads((demo.SAE / "cfg.json").read_text())
    scale = config["metadata"].pop("activation_scale")
    tensors = load_file(demo.SAE / "sae_weights.safetensors")
    tensors["W_enc"] /= scale
    tensors["W_dec"] *= scale
    tensors["b_dec"] *= scale
    folder = tmp_path / "unfolded"
    folder.mkdir()
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**config, "normalize_activations": "expected_average_only_in"}))
    return folder, scale


def test_the_demo_dictionarys_scale_is_found_again(tmp_path, demo_unfolded, demo_builder, demo_cut):
    folder, scale = demo_unfolded
    app = Typer()
    app.command()(sae_fold.fold)
    arguments = [str(folder), "--on", "demo", "--limit", "24", "--output", str(tmp_path / "new")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert "its scale is in no file" in result.stderr
    found = json.loads(result.stdout)
    # The demo's was estimated on other samples, without planted defects.
    assert found["activation_scale"] == pytest.approx(scale, rel=0.05)
    metadata = inspect_dictionary(str(tmp_path / "new")).metadata
    source = metadata["activation_scale_estimated_from"]
    assert metadata["activation_scale"] == found["activation_scale"]
    assert (source["model"], source["hook_layer"], source["rows"]) == ("demo", demo.HOOK_LAYER, 24)
    assert source["model_hash"] == metadata["model_hash"]
    norms = []
    for _, sample in open_dataset(DatasetSpec(limit=24, seed=HELD_OUT_SEED)).samples(range(24)):
        if isinstance(sample, Sample):
            inputs = demo_builder.build(sample.image, sample.question, sample.chosen)
            hidden = demo_cut.hidden_states(pack([inputs])).tolist()
            places = [at for at, token in enumerate(inputs.input_ids) if at and token != demo_builder.bos_token_id]
            norms += [sum(value * value for value in hidden[at]) ** 0.5 for at in places]
    assert source["tokens"] == len(norms) > 2000
    assert found["activation_scale"] == pytest.approx(96**0.5 * len(norms) / sum(norms), rel=1e-5)
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigurationError)
    assert "not an empty folder" in str(again.exception)


def test_nothing_is_scored_with_an_unknown_scale(tmp_path, demo_unfolded):
    job = ScoreJob(output=str(tmp_path / "run"), model=ModelSpec(name="demo"), sae=str(demo_unfolded[0]))
    with pytest.raises(ConfigurationError, match=r"curate sae fold .*unfolded --on MODEL"):
        plan(job)
    assert not (tmp_path / "run").exists()
