"""Scales settled: whether they are folded measured on the demo, and what is missing estimated; nothing folded twice."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer import Typer
from typer.testing import CliRunner

from curate import demo
from curate.cli import sae_fold
from curate.datasets import DatasetSpec, open_dataset
from curate.errors import ConfigurationError, DataError
from curate.harvest import reading as module
from curate.harvest.evaluate_job import HELD_OUT_SEED, SAEEvaluateJob
from curate.harvest.evaluate_plan import plan as evaluate_plan
from curate.harvest.fold import check_open
from curate.harvest.reading import first_states, measured
from curate.models import ModelSpec
from curate.models.packing import pack
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.sae.scale import estimate_scale
from curate.sample import Sample
from tests.sae.folders import D_MODEL, HIDDEN, configs, edit, saved

SCALE = D_MODEL**0.5 / (sum(float((row * row).sum()) ** 0.5 for row in HIDDEN) / len(HIDDEN))


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


def test_what_needs_no_estimate_is_not_folded_again(tmp_path):
    folder = saved(tmp_path / "sae", next(configs()))
    with pytest.raises(ConfigurationError, match="there is no scale to fold"):
        check_open(inspect_dictionary(str(folder)))
    name = edit(folder, normalize_activations="expected_average_only_in")
    check_open(inspect_dictionary(name))
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    with pytest.raises(ConfigurationError, match=r"0\.25 is known, .*: curate sae import .*sae --output DIR"):
        check_open(inspect_dictionary(name))


def demo_copy(folder, undo: bool):
    """The demo's SAE with a config that leaves its scale open, with or without its folding undone; and its scale."""
    config = json.loads((demo.SAE / "cfg.json").read_text())
    scale = config["metadata"].pop("activation_scale")
    tensors = load_file(demo.SAE / "sae_weights.safetensors")
    if undo:
        tensors["W_enc"] /= scale
        tensors["W_dec"] *= scale
        tensors["b_dec"] *= scale
    folder.mkdir()
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**config, "normalize_activations": "expected_average_only_in"}))
    return folder, scale


@pytest.fixture
def demo_unfolded(tmp_path):
    return demo_copy(tmp_path / "unfolded", undo=True)


@pytest.fixture
def demo_folded(tmp_path):
    return demo_copy(tmp_path / "folded", undo=False)


def run(*arguments):
    app = Typer()
    app.command()(sae_fold.fold)
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(reason, *arguments) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, ConfigurationError), result.output
    message = str(result.exception)
    assert reason in message
    return message


def test_the_demo_dictionarys_scale_is_found_again(tmp_path, demo_unfolded, demo_builder, demo_cut):
    folder, scale = demo_unfolded
    arguments = [str(folder), "--on", "demo", "--limit", "24", "--output", str(tmp_path / "new")]
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert "its activation scale is not folded (" in result.stderr
    assert result.stderr.count(" if folded") == 2
    found = json.loads(result.stdout)
    # The demo's was estimated on other samples, without planted defects.
    assert found["activation_scale"] == pytest.approx(scale, rel=0.05)
    metadata = inspect_dictionary(str(tmp_path / "new")).metadata
    source = metadata["activation_scale_estimated_from"]
    reading = metadata["activation_scale_reading"]
    assert (reading["taken"], reading["rows"], metadata["activation_units"]) == ("unfolded", 24, "normalised")
    assert found["reading"]["unexplained"] == reading["unexplained"]
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
    refused("not an empty folder", *arguments)
    hidden = torch.randn(50, 96, generator=torch.Generator().manual_seed(0)) * 5
    z = load_dictionary(replace(inspect_dictionary(str(folder)), scale=found["activation_scale"])).encode(hidden)
    torch.testing.assert_close(load_dictionary(inspect_dictionary(str(tmp_path / "new"))).encode(hidden), z)


def test_what_is_folded_is_not_folded_twice(tmp_path, demo_folded):
    arguments = (demo_folded[0], "--on", "demo", "--limit", "24", "--output", tmp_path / "new")
    message = refused("its activation scale is folded into its weights already", *arguments)
    assert message.count("if folded") == message.count("if not") == 2
    assert f"curate sae import {demo_folded[0]} --on MODEL --output DIR" in message
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_told_is_not_folded(tmp_path, demo_unfolded):
    folder = demo_unfolded[0]
    tensors = load_file(folder / "sae_weights.safetensors")
    generator = torch.Generator().manual_seed(0)
    shuffled = {key: each[torch.randperm(len(each), generator=generator)] for key, each in tensors.items()}
    save_file(shuffled, folder / "sae_weights.safetensors")
    arguments = (folder, "--on", "demo", "--limit", "24", "--output", tmp_path / "new")
    assert refused("cannot be told", *arguments).count(" if folded") == 2
    assert not (tmp_path / "new").exists()


def test_options_that_do_not_fit_are_refused_before_any_work(tmp_path, demo_unfolded, monkeypatch):
    monkeypatch.setattr(module, "all_chunks", None)
    folder, output = demo_unfolded[0], tmp_path / "new"
    refused("was trained on layer 2", folder, "--on", "demo", "--output", output, "--hook-layer", "1")
    refused("there is no scale to fold", demo.SAE, "--on", "demo", "--output", output)
    refused("not an empty folder", folder, "--on", "demo", "--output", folder)


# The first hidden states of a harvest


def harvest(**dataset):
    ((found, _),) = evaluate_plan(SAEEvaluateJob(dataset=DatasetSpec(**{"seed": 5, **dataset}))).passes
    return found


def test_reading_ends_with_the_block_that_makes_tokens_enough(monkeypatch):
    monkeypatch.setattr(module, "MOST_TOKENS", 200)
    hidden, is_image = first_states(harvest(limit=100))
    assert min(int(is_image.sum()), int((~is_image).sum())) >= 200
    monkeypatch.setattr(module, "MOST_TOKENS", 10**9)
    most, _ = first_states(harvest(limit=100))
    assert len(most) > 3 * len(hidden)
    assert torch.equal(most[: len(hidden)], hidden)
    # Four blocks at most, of 16 rows each, the last of them being shorter.
    everything = sum(len(chunk.hidden) for _, chunk in module.all_chunks(harvest(limit=100)))
    assert len(most) < 0.75 * everything
    few, _ = first_states(harvest(limit=10))
    assert len(few) == sum(len(chunk.hidden) for _, chunk in module.all_chunks(harvest(limit=10)))


def test_rows_that_cannot_be_used_give_nothing_to_measure_on(tmp_path, demo_unfolded):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_bytes(b"\xff\xfe\xff")
    found = harvest(name=str(texts), seed=0)
    with pytest.raises(DataError, match=r"none of the first rows of .* gives demo a token, such as: NotUtf8"):
        measured(inspect_dictionary(str(demo_unfolded[0])), found)


def test_an_sae_of_texts_after_images_is_not_told_from_bare_texts(tmp_path, demo_unfolded, demo_folded):
    """The demo model's text tokens without an image are others than those that its SAE learned from."""
    texts = tmp_path / "texts"
    texts.mkdir()
    words = ["What colour is the circle?", "The circle is red.", "Describe the image.", "A blue square is left of it."]
    for number, text in enumerate(words):
        (texts / f"{number}.txt").write_text(text)
    for folder, _ in (demo_unfolded, demo_folded):
        with pytest.raises(ConfigurationError, match=r"cannot be told: .* on text tokens \d"):
            measured(inspect_dictionary(str(folder)), harvest(name=str(texts), seed=0))


def test_a_scale_moved_from_the_config_into_the_weights_changes_no_score(tmp_path):
    """By a power of 2, which changes no bit of a product."""
    scored = []
    for factor in (1.0, 0.25):
        folder = tmp_path / f"{factor}"
        folder.mkdir()
        tensors = load_file(demo.SAE / "sae_weights.safetensors")
        unfolded = {"W_enc": 1 / factor, "W_dec": factor, "b_dec": factor}
        save_file(
            {key: each * unfolded.get(key, 1) for key, each in tensors.items()}, folder / "sae_weights.safetensors"
        )
        config = json.loads((demo.SAE / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps({**config, "normalize_activations": "expected_average_only_in"}))
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
        options = {"dataset": DatasetSpec(limit=24), "model": ModelSpec(name="demo"), "sae": str(folder)}
        job = ScoreJob(output=str(tmp_path / f"run-{factor}"), **options)
        score(job, lambda step: None, lambda plan, rows: None)
        scored.append(pq.read_table(tmp_path / f"run-{factor}" / "manifest.parquet"))
    one, other = scored
    assert one.num_rows == 24
    assert one.equals(other)
