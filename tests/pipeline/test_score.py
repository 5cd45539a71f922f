"""Whole runs through Ray: real photographs, repeated runs, other batches and actors, ten thousand rows half bad."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import demo
from curate.datasets import DatasetSpec
from curate.errors import ConfigurationError, RunStopped
from curate.manifest.record import MANIFEST, QUARANTINE, read_record
from curate.manifest.select import SelectJob, select
from curate.manifest.selection import read_selection
from curate.manifest.verify import verify_run
from curate.metrics import DEFAULT_METRICS
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.progress import Progress
from curate.pipeline.score import score
from curate.scoring.parameters import ScoringParameters
from tests.hostile import write_broken_table


def run(output: Path, dataset: DatasetSpec, overwrite: bool = False, **options):
    """A run with the demo model; returns its record and the steps it reported."""
    parameters = ScoringParameters(hook_layer=demo.HOOK_LAYER, **options.pop("parameters", {}))
    model = ModelSpec(name="demo")
    job = ScoreJob(output=output, dataset=dataset, parameters=parameters, **{"model": model, **options})
    steps: list[Progress] = []
    return score(job, steps.append, lambda plan, rows: None, overwrite), steps


DEMO = DatasetSpec(limit=300)
SMALL = {"shard_rows": 100}
FEW = {"weight_samples": 100}


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "a"
    record, steps = run(folder, DEMO, **SMALL, parameters=FEW)
    return folder, record, steps


def test_real_photographs_are_scored_whole(real_data, demo_run, tmp_path):
    spec = DatasetSpec(name="align-anything", data_dir=real_data / "align_anything", split="all")
    record, _ = run(tmp_path / "run", spec, weights=str(demo_run[0]))
    assert (record.counts.scored, record.counts.quarantined, record.counts.read) == (87, 0, 87)
    assert [check for check in verify_run(tmp_path / "run") if not check.ok] == []
    manifest = pq.read_table(tmp_path / "run" / MANIFEST)
    assert manifest["rank"].to_pylist() == list(range(1, 88))
    assert sorted(manifest["source_row"].to_pylist()) == list(range(87))
    assert len(set(manifest["sample_id"].to_pylist())) == 87
    assert any("toy world" in note for note in record.notes)


def test_both_responses_are_scored_in_one_run_with_the_weights_of_the_chosen(demo_run, tmp_path):
    """The chosen response's columns are those of a run of its own, byte by byte but for float noise."""
    folder, _, _ = demo_run
    parameters = {"text": "both", "metrics": ("cosine", "l0", "margin", "ifd"), **FEW}
    dataset = DatasetSpec(limit=60)
    record, _ = run(tmp_path / "both", dataset, **SMALL, parameters=parameters, weights=str(folder))
    assert [check for check in verify_run(tmp_path / "both") if not check.ok] == []
    assert record.metrics == ["cosine", "l0", "margin", "ifd", "cosine_rejected", "l0_rejected"]
    assert 0.3 < record.throughput["score"].shared_share < 0.7
    both = pq.read_table(tmp_path / "both" / MANIFEST).to_pylist()
    assert [row["score"] for row in both] == [row["cosine"] for row in both]
    chosen = {row["source_row"]: row for row in pq.read_table(folder / MANIFEST).to_pylist()}
    for row in both:
        noise = row["near_delta"] or row["near_switch"]
        assert noise or row["cosine"] == pytest.approx(chosen[row["source_row"]]["cosine"], abs=1e-5)
        assert noise or row["l0"] == pytest.approx(chosen[row["source_row"]]["l0"], abs=1e-5)
    folder, _ = select(SelectJob(run=str(tmp_path / "both"), by="cosine_rejected", ratio=0.5))
    kept = set(read_selection(str(folder)).rows["source_row"].to_pylist())
    best = sorted(both, key=lambda row: row["cosine_rejected"], reverse=True)
    assert len(kept) == 30
    assert {row["source_row"] for row in best if row["cosine_rejected"] > best[30]["cosine_rejected"]} <= kept


def test_a_run_is_whole_and_its_record_says_what_it_was_made_from(demo_run):
    folder, record, steps = demo_run
    assert [check for check in verify_run(folder) if not check.ok] == []
    assert read_record(folder) == record
    assert record.status == "complete"
    names = {MANIFEST, QUARANTINE, "run.json", "inputs.json", "sae.json", "weights", "shards", ".lock"}
    assert {path.name for path in folder.iterdir()} == names
    weights = json.loads((folder / "weights" / "feature_weights.json").read_text())
    assert weights["samples"] == 100
    assert weights["features_without_weight"] == record.counts.features_without_weight
    assert (steps[-1].stage, steps[-1].done, steps[-1].total) == ("score", 300, 300)
    assert steps[-1].tokens == record.counts.text_tokens + record.counts.image_tokens
    assert any(step.stage == "weights" and step.done == 100 for step in steps)
    manifest = pq.read_table(folder / MANIFEST)
    assert record.counts.near_delta == sum(manifest["near_delta"].to_pylist())
    assert record.counts.near_switch == sum(count > 0 for count in manifest["near_switch"].to_pylist())
    assert record.counts.near_delta / 300 < 0.01


@pytest.mark.slow  # killed runs, and weights that were lost, are held to the same bytes in make test
def test_the_same_settings_give_the_same_bytes(demo_run, tmp_path):
    folder, record, _ = demo_run
    again, _ = run(tmp_path / "again", DEMO, **SMALL, parameters=FEW)
    for name, file in record.files.items():
        assert again.files[name].sha256 == file.sha256, name
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()


@pytest.mark.slow  # budgets are compared in tests/scoring, two actors with one in tests/cluster
@pytest.mark.parametrize(("actors", "budget"), [(2, 2000), (1, 1)])
def test_actors_and_batch_budget_change_no_score_and_no_rank(demo_run, tmp_path, actors, budget):
    folder, _, _ = demo_run
    run(tmp_path / "run", DEMO, **SMALL, resources={"actors": actors}, parameters={**FEW, "batch_size": budget})
    one = pq.read_table(folder / MANIFEST).sort_by("source_row").to_pandas()
    other = pq.read_table(tmp_path / "run" / MANIFEST).sort_by("source_row").to_pandas()
    assert list(one.sample_id) == list(other.sample_id)
    exempt = one.near_delta | other.near_delta
    assert exempt.mean() < 0.01
    for metric in DEFAULT_METRICS:
        noisy = (one.near_switch > 0) | (other.near_switch > 0) if metric == "l0" else exempt
        np.testing.assert_allclose(one[metric][~noisy], other[metric][~noisy], atol=1e-5, rtol=0)
    # Ranks may differ only between samples whose scores do not.
    order = other[~exempt].sort_values("rank").sample_id
    assert (np.diff(one[~exempt].set_index("sample_id").score[order]) < 1e-5).all()


@pytest.mark.slow
def test_feature_weights_are_reused_only_where_they_belong(demo_run, tmp_path):
    folder, record, _ = demo_run
    again, steps = run(tmp_path / "again", DEMO, **SMALL, weights=folder, parameters=FEW)
    assert again.hashes.weights == record.hashes.weights
    assert again.files[MANIFEST].sha256 == record.files[MANIFEST].sha256
    assert not [step for step in steps if step.stage == "weights"]
    with pytest.raises(ConfigurationError, match="top-K 5 ≠ 4"):
        run(tmp_path / "other", DEMO, weights=folder, parameters={"top_k": 4})
    with pytest.raises(ConfigurationError, match="needs feature weights"):
        run(tmp_path / "other", DEMO, weights=folder, parameters={"metrics": ("l0",)})
    with pytest.raises(ConfigurationError, match="which the run reads"):
        run(folder, DEMO, overwrite=True, weights=folder)
    with pytest.raises(ConfigurationError, match=r"text prompt\+chosen ≠ prompt"):
        run(tmp_path / "other", DEMO, weights=folder, parameters={"text": "prompt"})
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2_000, 10_000])
def test_thousands_of_rows_with_one_in_twenty_broken(tmp_path, rows):
    expected = write_broken_table(tmp_path / "data", rows=rows, broken=rows // 20)
    assert len({kind.becomes for kind in expected.values()}) >= 12
    spec = DatasetSpec(name=str(tmp_path / "data"))
    record, _ = run(tmp_path / "run", spec, parameters={"metrics": ("l0", "cooccurrence")})
    assert (record.counts.read, record.counts.quarantined) == (rows, rows // 20)
    assert record.counts.scored == rows - rows // 20
    assert [check for check in verify_run(tmp_path / "run") if not check.ok] == []
    found = {row["source_row"]: row for row in pq.read_table(tmp_path / "run" / QUARANTINE).to_pylist()}
    assert set(found) == set(expected)
    for row, kind in expected.items():
        assert found[row]["error"] == kind.becomes.__name__, (kind.name, found[row])
        assert kind.says in found[row]["reason"], (kind.name, found[row])
        assert (found[row]["sample_id"] is not None) == kind.has_id, (kind.name, found[row])


@pytest.mark.parametrize("metric", [pytest.param("l0", marks=pytest.mark.slow), "cosine"])
def test_a_run_that_is_mostly_broken_stops_and_keeps_what_it_has(tmp_path, metric):
    write_broken_table(tmp_path / "data", rows=600, broken=300)
    spec = DatasetSpec(name=str(tmp_path / "data"))
    with pytest.raises(RunStopped, match=r"more than --max-error-rate 0\.05"):
        run(tmp_path / "run", spec, shard_rows=50, parameters={"metrics": (metric,), "weight_samples": 20})
    record = read_record(tmp_path / "run")
    assert record.counts.scored > 0
    assert record.counts.quarantined > 30
    if metric == "cosine":
        weights = record.throughput["weights"]
        assert weights.samples + weights.quarantined == 20
        assert weights.quarantined > 0
    failed = [check for check in verify_run(tmp_path / "run") if not check.ok]
    assert [check.name for check in failed] == (["complete"] if record.status == "stopped" else [])


@pytest.mark.slow
def test_data_without_one_good_row_are_quarantined_whole(tmp_path):
    lines = [json.dumps({"question": "q", "image": f"{n}.png", "chosen": "a", "rejected": "b"}) for n in range(30)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunStopped, match="30 MissingImage"):
        run(tmp_path / "run", DatasetSpec(name=str(tmp_path / "data.jsonl")))
    record = read_record(tmp_path / "run")
    assert (record.counts.scored, record.counts.quarantined) == (0, 30)
    assert record.counts.features_without_weight == record.counts.features


def test_an_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_run(demo_run, tmp_path):
    folder, _, _ = demo_run
    with pytest.raises(ConfigurationError, match="limit 300 ≠ 299"):
        run(folder, DatasetSpec(limit=299), **SMALL, parameters=FEW)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="not a run folder"):
        run(tmp_path / "mine", DEMO, overwrite=True)
    for name in ("run.json", "shards"):
        (tmp_path / "mine" / name).mkdir()
    with pytest.raises(ConfigurationError, match="not a run folder"):
        run(tmp_path / "mine", DEMO, overwrite=True)
    (tmp_path / "data" / "shards").mkdir(parents=True)
    (tmp_path / "data" / "shards" / "part-0.parquet").write_text("data")
    with pytest.raises(ConfigurationError, match="not a run folder"):
        run(tmp_path / "data", DEMO, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_model_file_that_breaks_on_loading_is_one_line_not_a_ray_error(tmp_path):
    import shutil

    shutil.copytree(demo.MODEL, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    for metrics in (("l0",), ("cosine",)):
        with pytest.raises(ConfigurationError, match=r"model's file .*model.safetensors is damaged") as caught:
            run(
                tmp_path / metrics[0],
                DatasetSpec(limit=20),
                model=ModelSpec(name=str(tmp_path / "model")),
                sae="demo",
                allow_model_mismatch=True,
                parameters={"metrics": metrics},
            )
        assert "\n" not in str(caught.value)
