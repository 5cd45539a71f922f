"""What the first pass finds of an SAE against an own computation: its fit, open readings, poor fits; who reads it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from curate import demo
from curate.cli.main import app
from curate.datasets import DatasetSpec, spread
from curate.errors import ConfigurationError, DataError
from curate.interpret.lens import open_run
from curate.manifest.ledger import read_ledger, withdraw
from curate.manifest.record import MANIFEST, RunRecord, read_record, read_sae
from curate.manifest.weights import write_weights
from curate.models import ModelSpec
from curate.models.packing import pack
from curate.pipeline import first_pass_worker
from curate.pipeline import score as score_module
from curate.pipeline.finish import _warnings
from curate.pipeline.first_pass_worker import FirstPassWorker
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.score import score
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring.fit import FIT_SAMPLES, READING_SAMPLES
from curate.scoring.parameters import ScoringParameters
from curate.storage import location
from tests import oracle
from tests.pipeline.small import write_data

N = 40
SCALE = json.loads((demo.SAE / "cfg.json").read_text())["metadata"]["activation_scale"]


def sae_folder(folder: Path, change=lambda tensors: tensors, **config) -> Path:
    """The demo's SAE, with other weights and another config; its metadata tells no activation scale."""
    content = json.loads((demo.SAE / "cfg.json").read_text())
    del content["metadata"]["activation_scale"]
    folder.mkdir()
    save_file(change(load_file(demo.SAE / "sae_weights.safetensors")), folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**content, **config}))
    return folder


def unfolded(tensors):
    scaled = {"W_enc": tensors["W_enc"] / SCALE, "W_dec": tensors["W_dec"] * SCALE, "b_dec": tensors["b_dec"] * SCALE}
    return {**tensors, **scaled}


def far_off(tensors):
    return {**tensors, "b_dec": tensors["b_dec"] + 10}


OPEN = {"normalize_activations": "expected_average_only_in"}


def run(folder: Path, sae: Path | str = "demo", report=lambda step: None, **options) -> RunRecord:
    parameters = ScoringParameters(weight_samples=N, **options.pop("parameters", {}))
    arguments = {"output": str(folder), "dataset": DatasetSpec(limit=N), "model": ModelSpec(name="demo")}
    job = ScoreJob(**{**arguments, "sae": str(sae), "parameters": parameters, **options})
    return score(job, report, lambda plan, rows: None)


def scores(folder: Path, name: str = "cosine") -> np.ndarray:
    return pq.read_table(folder / MANIFEST).sort_by("source_row")[name].to_numpy()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(folder)
    return folder


def test_the_fit_of_a_run_is_that_of_an_own_computation(scored_run, demo_prepared):
    fit = read_record(scored_run).sae
    assert fit is not None
    # From all over the run's 200 samples.
    inputs = [demo_prepared[index * 200 // FIT_SAMPLES].inputs for index in range(FIT_SAMPLES)]
    hidden = oracle.full_hidden_states(demo.MODEL, inputs, demo.HOOK_LAYER)
    weights = {name: value.double().numpy() for name, value in load_file(demo.SAE / "sae_weights.safetensors").items()}
    x = np.concatenate([states[1:] for states in hidden])
    image = np.concatenate([each.is_image[1:].numpy() for each in inputs])
    z = oracle.encode(demo.SAE, x)
    error = ((z @ weights["W_dec"] + weights["b_dec"] - x) ** 2).sum(1)
    assert fit.samples == FIT_SAMPLES
    for modality, mask in (("text", ~image), ("image", image)):
        spread = ((x[mask] - x[mask].mean(0)) ** 2).sum()
        found = fit.fit[modality]
        assert found.tokens == mask.sum()
        assert found.explained_variance == pytest.approx(1 - error[mask].sum() / spread, abs=1e-4)
        assert found.l0 == pytest.approx((z[mask] > 0).sum(1).mean(), rel=1e-3)
    assert (fit.scale, fit.reading, fit.units, fit.poor) == (1.0, None, "normalised", False)


def test_what_is_folded_is_read_as_it_is_and_remembered(tmp_path, plain, monkeypatch):
    sae, steps = sae_folder(tmp_path / "sae", **OPEN), []
    record = run(tmp_path / "run", sae, steps.append)
    told = [(step.done, step.total) for step in steps if step.stage == "reading"]
    assert len(told) > 1
    assert told[-1] == (READING_SAMPLES, READING_SAMPLES)
    assert record.sae is not None
    assert record.sae.scale == 1.0
    assert record.sae.reading in record.notes
    assert "is folded already" in str(record.sae.reading)
    for name in record.metrics:
        np.testing.assert_array_equal(scores(tmp_path / "run", name), scores(plain, name))
    # A run that goes on, and whoever explains it, reads the SAE as it was read.
    assert open_run(location(str(tmp_path / "run"))).scorer.dictionary.weight.equal(
        load_dictionary(inspect_dictionary(str(demo.SAE))).weight
    )
    before = (tmp_path / "run" / MANIFEST).read_bytes()
    folder = location(str(tmp_path / "run"))
    for shard in read_ledger(folder).values():
        withdraw(folder, shard)
    monkeypatch.setattr(score_module, "first_pass", lambda *_: pytest.fail("measured again"))
    run(tmp_path / "run", sae)
    assert (tmp_path / "run" / MANIFEST).read_bytes() == before


def test_what_is_not_folded_is_read_with_the_data_s_own_scale(tmp_path, plain):
    sae = sae_folder(tmp_path / "sae", unfolded, **OPEN)
    record = run(tmp_path / "run", sae)
    assert record.sae is not None
    assert record.sae.scale == pytest.approx(SCALE, rel=0.05)
    assert "not folded" in str(record.sae.reading)
    assert np.corrcoef(scores(tmp_path / "run"), scores(plain))[0, 1] > 0.9
    # Where the weights are lost, the record still says how the scale was found.
    shutil.rmtree(tmp_path / "run" / "weights")
    (tmp_path / "run" / "run.json").unlink()
    again = run(tmp_path / "run", sae)
    assert (again.sae, again.hashes.weights) == (record.sae, record.hashes.weights)
    # Weights that another run is given say how the SAE was read, so nothing has to be tried.
    given = plan(
        ScoreJob(
            output=str(tmp_path / "other"),
            dataset=DatasetSpec(limit=N),
            model=ModelSpec(name="demo"),
            sae=str(sae),
            weights=str(tmp_path / "run"),
        )
    )
    assert given.sae.scale == record.sae.scale
    assert any("as in the run of --weights" in note for note in given.notes)
    # And with the very scale in the config's place, no score changes but by rounding.
    (sae / "activation_scaler.json").write_text(json.dumps({"scaling_factor": SCALE}))
    told = run(tmp_path / "told", sae)
    assert (told.sae and told.sae.scale, told.sae and told.sae.reading) == (SCALE, None)
    rows = pq.read_table(plain / MANIFEST).sort_by("source_row")
    sure = ~rows["near_delta"].to_numpy()
    np.testing.assert_allclose(scores(tmp_path / "told")[sure], scores(plain)[sure], atol=1e-4)


def test_weights_that_do_not_say_the_scale_are_taken(tmp_path):
    """As they were written before SAEs could leave it open."""

    def without_scale(folder: Path) -> None:
        path = folder / "weights" / "feature_weights.json"
        record = json.loads(path.read_text())
        del record["sae_scale"]
        path.write_text(json.dumps(record))

    sae = sae_folder(tmp_path / "sae", unfolded, **OPEN)
    measured = run(tmp_path / "measured", sae)
    assert measured.sae is not None
    without_scale(tmp_path / "measured")
    # An open scale is then measured, and whoever explains the run takes that of its record.
    again = run(tmp_path / "again", sae, weights=str(tmp_path / "measured"))
    assert (again.sae, again.hashes.weights) == (measured.sae, measured.hashes.weights)
    info = replace(inspect_dictionary(str(sae)), scale=measured.sae.scale)
    opened = open_run(location(str(tmp_path / "measured"))).scorer.dictionary
    assert opened.weight.equal(load_dictionary(info).weight)
    (sae / "activation_scaler.json").write_text(json.dumps({"scaling_factor": SCALE}))
    told = run(tmp_path / "told", sae)
    without_scale(tmp_path / "told")
    assert run(tmp_path / "more", sae, weights=str(tmp_path / "told")).hashes.weights == told.hashes.weights


def test_random_weights_are_refused_with_both_figures_before_anything_is_scored(tmp_path):
    def random(tensors):
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(value.shape, generator=generator) * value.std() if name != "threshold" else value
            for name, value in tensors.items()
        }

    sae = sae_folder(tmp_path / "sae", random, **OPEN)
    with pytest.raises(ConfigurationError, match=r"on text tokens \d+\.\d{3} if folded, \d+\.\d{3} if not; on image"):
        run(tmp_path / "run", sae)
    assert not (tmp_path / "run" / MANIFEST).exists()
    assert read_ledger(location(str(tmp_path / "run"))) == {}


def test_a_poor_fit_stops_before_scoring_unless_it_is_accepted(tmp_path):
    sae = sae_folder(tmp_path / "sae", far_off)
    # b_dec is not subtracted from the input, so that activations stay as they are.
    content = json.loads((sae / "cfg.json").read_text())
    (sae / "cfg.json").write_text(json.dumps({**content, "apply_b_dec_to_input": False}))
    with pytest.raises(
        ConfigurationError, match=r"does not fit .* -\d+\.\d{3} of the variance of text tokens "
    ) as refused:
        run(tmp_path / "run", sae, shard_rows=20)
    folder = location(str(tmp_path / "run"))
    assert read_ledger(folder) == {}
    found = read_sae(folder, inspect_dictionary(str(sae)).sha256)
    assert found is not None
    assert found.poor
    advice = str(refused.value).rpartition("score anyway: curate ")[2].split()
    assert CliRunner().invoke(app, advice).exit_code == 0
    record = read_record(folder)
    assert record.status == "complete"
    assert record.sae == found
    assert record.warnings[0].startswith("the SAE does not fit these data")
    # What was allowed once is not refused to who resumes.
    withdraw(folder, read_ledger(folder)[20])
    assert run(tmp_path / "run", sae, shard_rows=20).files[MANIFEST] == record.files[MANIFEST]


def test_an_sae_that_overflows_is_a_poor_fit(tmp_path):
    def huge(tensors):
        return {**tensors, "W_dec": tensors["W_dec"] * (3e38 / tensors["W_dec"].abs().max())}

    sae = sae_folder(tmp_path / "sae", huge)
    said = r"does not fit .*: it overflows in 40 samples \(its reconstruction is NaN or infinite\)\. Take another"
    with pytest.raises(ConfigurationError, match=said):
        run(tmp_path / "run", sae)
    assert read_ledger(location(str(tmp_path / "run"))) == {}
    # Scores do not read the decoder.
    assert run(tmp_path / "run", sae, allow_poor_fit=True).counts.scored == N


def test_a_scale_that_was_edited_is_refused(tmp_path):
    sae = sae_folder(tmp_path / "sae", unfolded, **OPEN)
    run(tmp_path / "run", sae)
    path, folder = tmp_path / "run" / "sae.json", location(str(tmp_path / "run"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "scale": 0.05}))
    for shard in read_ledger(folder).values():
        withdraw(folder, shard)
    with pytest.raises(DataError, match=r"of the SAE at scale 0\.2.*, and the run's sae.json has 0\.05"):
        run(tmp_path / "run", sae)
    path.unlink()  # run.json has it, too
    assert run(tmp_path / "run", sae).status == "complete"


def test_a_reading_takes_the_samples_that_can_be_read(tmp_path):
    """The first 36 rows are broken, which are more than a reading takes."""
    data = write_data(tmp_path / "data")
    lines = (data / "data.jsonl").read_text().splitlines()
    broken = [json.dumps({**json.loads(line), "image": "none.png"}) for line in lines[:36]]
    (data / "data.jsonl").write_text("\n".join([*broken, *lines[36:]]) + "\n")
    options = {"dataset": DatasetSpec(name=str(data / "data.jsonl")), "max_error_rate": 1}
    sae = sae_folder(tmp_path / "sae", **OPEN)
    assert run(tmp_path / "run", sae, **options).counts.scored == 4
    (data / "data.jsonl").write_text("\n".join(broken) + "\n")
    with pytest.raises(ConfigurationError, match=r"none of 36 samples can be read to measure it on: .*none\.png"):
        run(tmp_path / "none", sae, **options)


def test_a_fit_that_no_sample_could_be_used_for_is_measured_when_some_can(tmp_path):
    data = write_data(tmp_path / "data")
    for image in data.glob("*.png"):
        image.rename(image.with_suffix(".gone"))
    options = {"dataset": DatasetSpec(name=str(data / "data.jsonl")), "max_error_rate": 1}
    lost = run(tmp_path / "run", parameters={"metrics": ("l0",)}, **options)
    assert lost.sae is not None
    assert (lost.counts.scored, lost.sae.poor) == (0, False)
    assert lost.sae.summary == "was not measured, as no sample could be used"
    for image in data.glob("*.gone"):
        image.rename(image.with_suffix(".png"))
    assert CliRunner().invoke(app, ["retry", str(tmp_path / "run")]).exit_code == 0
    found = read_record(location(str(tmp_path / "run")))
    assert found.sae is not None
    assert (found.counts.scored, found.sae.samples) == (38, 38)


def test_one_modality_is_enough_for_a_poor_fit(tmp_path, demo_cut, demo_prepared):
    """An SAE that knows the text tokens' directions, and a feature of image tokens that leads away from them."""
    hidden = [demo_cut.hidden_states(pack([sample.inputs]))[1:] for sample in demo_prepared[:40]]
    of_text = [~sample.inputs.is_image[1:] for sample in demo_prepared[:40]]
    text, image = (
        torch.cat([states[mask == kind] for states, mask in zip(hidden, of_text, strict=True)])
        for kind in (True, False)
    )
    centre, apart = text.mean(0), image.mean(0) - text.mean(0)
    _, _, axes = torch.linalg.svd(text - centre, full_matrices=False)
    away = apart / apart.norm()
    encoder = torch.cat([axes[:40], -axes[:40], away[None]])
    decoder = torch.cat([axes[:40], -axes[:40], -50 * away[None]])
    highest = float(((text - centre) @ away).max())  # no text token reaches it

    def of_text_alone(_):
        bias = torch.zeros(81)
        bias[80] = -highest
        return {"W_enc": encoder.T.contiguous(), "b_enc": bias, "W_dec": decoder, "b_dec": centre}

    config = {"architecture": "standard", "d_sae": 81, "apply_b_dec_to_input": True}
    with pytest.raises(ConfigurationError, match=r"explains 0\.\d+ .* of text tokens .* -\d+\.\d+ .* of image tokens"):
        run(tmp_path / "run", sae_folder(tmp_path / "sae", of_text_alone, **config))


@pytest.mark.parametrize("metric", ["length", "ifd"])
def test_metrics_that_read_no_activations_are_not_stopped_by_the_sae(tmp_path, metric):
    record = run(tmp_path / "run", sae_folder(tmp_path / "sae", far_off, **OPEN), parameters={"metrics": (metric,)})
    assert (record.counts.scored, record.sae, set(record.timings)) == (N, None, {"score", "rank"})
    # Nothing was measured that `curate explain` could open the SAE by.
    with pytest.raises(ConfigurationError, match=f"/run: {metric} read no activations.*--metric cosine$"):
        open_run(location(str(tmp_path / "run")))


def test_a_reading_is_tried_on_samples_from_all_over_the_data(tmp_path, demo_prepared, demo_cut, monkeypatch):
    sae = sae_folder(tmp_path / "sae", **OPEN)
    whole = plan(ScoreJob(output=str(tmp_path / "run"), dataset=DatasetSpec(limit=200), sae=str(sae)))
    tried: list[list] = []
    monkeypatch.setattr(first_pass_worker, "reading_of", lambda sae, texts, device, lost: tried.append(texts))
    # The pass for the fit alone tries the same.
    for dataset in (whole.dataset, replace(whole.dataset, rows=spread(whole.dataset.rows, FIT_SAMPLES))):
        assert [*FirstPassWorker(whole, dataset, False).read_sae()] == list(range(READING_SAMPLES))
    assert len(tried) == 2
    for texts in tried:
        assert len(texts) == READING_SAMPLES
        for index, (hidden, _) in enumerate(texts):
            expected = demo_prepared[index * 200 // READING_SAMPLES].inputs
            assert hidden.equal(demo_cut.hidden_states(pack([expected])))


def test_a_run_without_feature_weights_knows_its_fit_too(tmp_path):
    record = run(tmp_path / "run", parameters={"metrics": ("l0",)})
    assert record.sae is not None
    assert record.sae.samples == N
    assert record.hashes.weights is None
    assert set(record.timings) == {"fit", "score", "rank"}
    assert run(tmp_path / "none", parameters={"metrics": ("length",)}).sae is None


def test_the_bound_follows_the_units_of_the_sae(tmp_path):
    def bound(sae: Path, **options) -> tuple[object, list[str]]:
        arguments = {"output": str(tmp_path / "run"), "dataset": DatasetSpec(limit=N), "sae": str(sae), **options}
        found = plan(ScoreJob(model=ModelSpec(name="demo"), **arguments))
        return found.job.parameters.delta, [note for note in found.notes if "delta" in note]

    raw = sae_folder(tmp_path / "raw")
    assert bound(raw) == (0.0, [])
    assert bound(raw, parameters=ScoringParameters(delta=0.5)) == (0.5, [])
    assert bound(demo.SAE) == (1.0, [])
    assert bound(sae_folder(tmp_path / "open", **OPEN)) == (1.0, [])

    def without_threshold(tensors):
        return {name: value for name, value in tensors.items() if name != "threshold"}

    delta, notes = bound(sae_folder(tmp_path / "relu", without_threshold, architecture="standard"))
    assert delta == 1.0
    assert "names no normalisation" in notes[0]


def test_a_run_whose_scores_are_all_alike_warns(tmp_path, plain):
    assert read_record(location(str(plain))).warnings == []
    record = run(tmp_path / "run", parameters={"metrics": ("cosine",), "delta": 1e6})
    assert record.warnings == ["every sample has the same cosine: the ranking says nothing"]
    few = run(tmp_path / "few", parameters={"top_k": 1000})
    assert few.warnings[0].startswith("every sample has the same cosine")
    assert few.warnings[1].startswith("768 of 768 features have no weight")


def test_warnings_need_more_than_nine_tenths_without_weight():
    class Weights:
        features, features_without_weight = 100, 90

    assert _warnings("cosine", False, Weights, None) == []
    Weights.features_without_weight = 91
    assert len(_warnings("cosine", False, Weights, None)) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_feature_weights_follow_the_users_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        facts = dict.fromkeys(("model_sha256", "sae_sha256", "dataset_sha256", "text", "rule"), "")
        numbers = {"hook_layer": 0, "top_k": 1, "seed": 0, "samples": 1}
        write_weights(location(str(tmp_path)), torch.ones(3).double(), torch.ones(3).bool(), {}, **facts, **numbers)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"feature_weights.safetensors": mode, "feature_weights.json": mode}
