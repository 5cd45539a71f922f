"""A small sweep on the demo: what its cells say, what is shared, what a second run repeats, what a failure costs."""

import contextlib
import csv
import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from scipy.stats import ttest_ind
from typer.testing import CliRunner

from curate.cli.main import app
from curate.datasets import DatasetSpec
from curate.errors import ConfigurationError
from curate.evaluation.evaluate import EvaluationRecord
from curate.experiments.sweep import sweep
from curate.experiments.sweep_job import SweepJob, choices, n_trainings
from curate.experiments.sweep_plan import plan
from curate.experiments.sweep_results import Cell, Mean, Tuned, correlations, difference, findings, means
from curate.pipeline import tasks
from curate.pipeline.connection import connected
from curate.training.train import TrainingRecord
from tests.pipeline.test_first_pass import far_off, sae_folder
from tests.training.small import scored_run

TRAINING = {"batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 2, "validation_share": 0, "lr": 1e-3}


def job(output: Path, **changes) -> SweepJob:
    fields = {
        "output": str(output),
        "score": {
            "dataset": {"limit": 24},
            "parameters": {"metrics": ["cosine", "random"], "weight_samples": 24, "top_k": 1},
        },
        "metrics": ["random"],
        "ratios": ["0.5"],
        "seeds": 1,
        "methods": ["sft", "dpo"],
        "training": TRAINING,
        "evaluation": {"bench": "demo", "limit": 3},
        "model_score": True,
        "model_score_samples": 4,
    }
    return SweepJob.model_validate({**fields, **changes})


def run(the_job: SweepJob):
    steps = []
    return sweep(plan(the_job), steps.append), [step for step in steps if step.stage == "sweep"]


@pytest.fixture(scope="module")
def one_ray():
    """One Ray for all sweeps here: its start and its processes' imports take longer than what they compute."""
    with connected(None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "connected", lambda address: contextlib.nullcontext())
        yield


@pytest.fixture(scope="module")
def swept(one_ray, tmp_path_factory):
    """A sweep in which the base model's evaluation fails, since a file is in the place of its folder."""
    output = tmp_path_factory.mktemp("sweep") / "sweep"
    first = job(output)
    names = {}

    def block(step) -> None:
        # Selections are there, and no task has begun.
        if step.stage == "sweep" and step.done == 0 and not names:
            names.update({"total": step.total})
            (output / "cells" / "base").mkdir(parents=True)
            (output / "cells" / "base" / "evaluation").touch()

    record = sweep(plan(first), block)
    return output, record, names["total"]


def test_a_failure_takes_no_others_along(swept):
    _, record, total = swept
    # Of the base evaluate and weigh; by each method of half by random and all: train, too.
    assert total == 2 + 2 * 2 * 3
    assert record.base is None
    assert "evaluate: " in record.base_error
    assert record.missing == 1
    assert all(cell.tuned is not None and cell.error is None for cell in record.cells)


def test_cells_say_what_trainings_and_evaluations_recorded(swept):
    output, record, _ = swept
    assert [(cell.method, cell.metric, cell.ratio, cell.n_samples) for cell in record.cells] == [
        (method, *place) for place in (("random", 0.5, 12), ("full", 1.0, 24)) for method in ("sft", "dpo")
    ]
    for cell in record.cells:
        folder = output / "cells" / cell.training
        training = TrainingRecord.model_validate_json((folder / "training" / "training.json").read_text())
        evaluation = EvaluationRecord.model_validate_json((folder / "evaluation" / "evaluation.json").read_text())
        assert cell.tuned.relative == evaluation.score
        assert cell.tuned.categories == {name: each.relative for name, each in evaluation.categories.items()}
        assert cell.tuned.model_sha256 == training.model_sha256 == evaluation.decides["candidate"]
        assert (cell.tuned.n_train, cell.tuned.steps, training.method) == (cell.n_samples, 2, cell.method)
        assert -1 <= cell.tuned.mean_weight <= 1
        assert not (folder / "training" / "model").exists()
    weights = {cell.tuned.mean_weight for cell in record.cells}
    assert len(weights) == len(record.cells)  # of different models
    rows = list(csv.DictReader((output / "sweep.csv").open()))
    assert [float(row["relative"]) for row in rows] == [cell.tuned.relative for cell in record.cells]
    assert json.loads((output / "sweep.json").read_text())["trainings"] == 4
    for figure in ("figure7.png", "figure7.svg", "figure8.png", "figure8.svg"):
        assert (output / figure).stat().st_size > 5_000


def test_what_is_whole_is_not_done_again_and_more_can_be_added(swept):
    """Half by cosine is added; the base is tried again; a cell whose file was lost is evaluated from its records."""
    output, before, _ = swept
    (output / "cells" / "base" / "evaluation").unlink(missing_ok=True)
    written = {path: path.stat().st_mtime_ns for path in output.glob("cells/*/cell.json")}
    records = {path: path.stat().st_mtime_ns for path in output.glob("cells/*/training/training.json")}
    record, steps = run(job(output, metrics=["cosine", "random"]))
    added = {cell.training for cell in record.cells} - {cell.training for cell in before.cells}
    assert steps[0].total == 2 + 3 * len(added)
    assert len(added) == 2
    assert record.missing == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert record.base is not None
    assert record.base.mean_weight is not None
    again, steps = run(job(output, metrics=["cosine", "random"]))
    assert steps[0].total == 0
    assert again.cells == record.cells
    assert again.means == record.means


def test_another_sweep_in_the_folder_is_refused(swept):
    output, _, _ = swept
    with pytest.raises(ConfigurationError, match=r"training max_steps 2 ≠ 3"):
        run(job(output, training={**TRAINING, "max_steps": 3}))
    with pytest.raises(ConfigurationError, match="questions 3 ≠ 2"):
        run(job(output, evaluation={"bench": "demo", "limit": 2}))


def test_what_cannot_work_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        ConfigurationError,
        match=r"--ratios 0\.1: the selection has 2 samples, 2 of them to train on, and a step takes 4",
    ):
        plan(job(tmp_path / "few", ratios=["0.1"]))
    with pytest.raises(ConfigurationError, match="of 12 samples none is left to validate on"):
        plan(job(tmp_path / "few", training={**TRAINING, "validation_share": 0.01}))
    with pytest.raises(ValueError, match="cosine_rejected is swept over and not computed"):
        job(tmp_path / "few", metrics=["cosine_rejected"])
    with pytest.raises(ValueError, match="cooccurrence is swept over and not computed"):
        job(tmp_path / "unscored", metrics=["cooccurrence"])
    with pytest.raises(ValueError, match="--strategy fsdp shards what is trained"):
        job(tmp_path / "x", workers=2, strategy="fsdp", training={**TRAINING, "lora_r": 2})
    with pytest.raises(ValueError, match="--dtype float16"):
        job(tmp_path / "x", evaluation={"bench": "demo", "model": {"name": "demo", "dtype": "float16"}})
    with pytest.raises(ValueError, match=r"score\.output: runs/mine ≠ "):
        job(tmp_path / "x", score={"output": "runs/mine"})
    with pytest.raises(ValueError, match="--bench: name one"):
        job(tmp_path / "x", score={"model": {"name": "org/m"}, "sae": "s"}, evaluation={})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigurationError, match=r"holds thesis\.tex"):
        run(job(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir() if path.name != ".lock"] == ["thesis.tex"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_repeats_nothing_that_is_whole(tmp_path):
    """SIGKILL to a real process, in the middle of its trainings."""
    output, file, both = tmp_path / "sweep", tmp_path / "sweep.json", ["cosine", "random"]
    file.write_text(job(output, metrics=both, model_score=False).model_dump_json(exclude_none=True))
    command = [sys.executable, "-m", "curate", "run", str(file), "--json"]

    def whole() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in output.glob("cells/*/cell.json")}

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(whole()) < 2:
        time.sleep(0.05)
    of_ray = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(of_ray)  # which see by themselves that their driver is gone
    before = whole()
    assert 2 <= len(before) < 7
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {path: whole()[path] for path in before} == before
    record = json.loads(result.stdout)
    assert len(whole()) == 7
    undisturbed, _ = run(job(tmp_path / "other", metrics=both, model_score=False))
    scores = [cell["tuned"]["relative"] for cell in record["cells"]]
    assert scores == [cell.tuned.relative for cell in undisturbed.cells if cell.tuned]


def test_a_run_that_was_stopped_is_no_run_to_select_from(tmp_path):
    run = scored_run(tmp_path / "run", DatasetSpec(limit=24))
    given = {"run": str(run), "metrics": ["random"], "ratios": ["0.5"], "training": TRAINING}
    assert plan(SweepJob.model_validate({**given, "output": str(tmp_path / "out")})).run
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "stopped"}))
    with pytest.raises(ConfigurationError, match="is stopped: finish it with curate score --resume"):
        plan(SweepJob.model_validate({**given, "output": str(tmp_path / "out")}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "r", "--limit", "10", "--sae", "s"], "--run: its data are scored already; leave out --limit, --sae"),
        (["--run", "r", "--allow-poor-fit"], "--run: its data are scored already; leave out --allow-poor-fit"),
        (["--run", "r", "--allow-model-mismatch"], "leave out --allow-model-mismatch"),
        (["--run", "r", "--device", "cpu"], "--device goes with --model"),
        (["--dataset", "d.jsonl", "--model", "org/m", "--sae", "s"], "--bench: name one"),
        (["--metric", "cosines"], "no metric cosines"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, message, tmp_path):
    run_folder = scored_run(tmp_path / "run", DatasetSpec(limit=2))
    arguments = ["sweep", "--output", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, [str(run_folder) if each == "r" else each for each in arguments])
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_model_and_sae_that_are_configured_for_score_are_those_of_a_sweep_and_a_calibration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "curate.toml").write_text('[score]\nsae = "team/sae"\nmodel = "org/team"\n')
    own = {"sweep": ["--bench", "b", "--judge-url", "http://j", "--judge-model", "j"], "calibrate": []}
    for verb, options in own.items():
        arguments = [verb, "--output", "out", "--print-job"]

        def printed(*more: str, arguments=arguments, **environment: str) -> dict:
            result = CliRunner().invoke(app, [*arguments, *more], env=environment)
            assert result.exit_code == 0, result.output
            return yaml.safe_load(result.stdout)["score"]

        scored = printed("--dataset", "d.jsonl", *options)
        assert (scored["model"]["name"], scored["sae"]) == ("org/team", "team/sae")
        scored = printed("--dataset", "d.jsonl", *options, CURATE_SCORE_SAE="other")
        assert (scored["model"]["name"], scored["sae"]) == ("org/team", "other")
        scored = printed()
        assert (scored["model"]["name"], scored["sae"]) == ("demo", "demo")


def test_a_poor_fit_stops_a_sweep_unless_the_same_command_allows_it(one_ray, tmp_path):
    sae = sae_folder(tmp_path / "sae", far_off, apply_b_dec_to_input=False)
    command = ["sweep", "--output", str(tmp_path / "out"), "--sae", str(sae), "--limit", "24", "--questions", "1"]
    command += ["--metric", "cooccurrence", "--ratios", "0.5", "--seeds", "1", "--method", "sft", "--max-steps", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "score anyway: the same command with --allow-poor-fit" in result.stderr.replace("\n", " ")
    assert CliRunner().invoke(app, [*command, "--allow-poor-fit"]).exit_code == 0


def test_an_sae_of_another_model_is_allowed_to_a_sweep():
    command = ["sweep", "--sae", "demo", "--allow-model-mismatch", "--print-job"]
    assert yaml.safe_load(CliRunner().invoke(app, command).stdout)["score"]["allow_model_mismatch"] is True


def test_the_grid_counts_what_is_shared():
    """By brute force: all combinations, those on all data being one for each method and seed."""
    the_job = job(
        Path("nowhere"), metrics=["cosine", "random"], ratios=["0.1", "0.5", "1"], seeds=3, methods=["sft", "dpo"]
    )
    combinations = {
        (method, "full" if ratio == "1" else f"{metric}-{ratio}", seed)
        for method in ("sft", "dpo")
        for metric in ("cosine", "random")
        for ratio in ("0.1", "0.5", "1")
        for seed in range(3)
    }
    assert n_trainings(the_job) == (len(combinations), 6)
    assert len(list(choices(the_job))) == 2 + 2 * 3 + 1


def cell(metric: str, ratio: float, seed: int, score: float, weight: float | None = None) -> Cell:
    tuned = Tuned(
        model_sha256="", n_train=1, steps=1, relative=score, macro=score, categories={}, n=1, failures=0, seconds=0,
        mean_weight=weight,
    )  # fmt: skip
    return Cell(
        method="sft", metric=metric, ratio=ratio, seed=seed, n_samples=1, training=f"{metric}{ratio}{seed}", tuned=tuned
    )


def test_findings_name_exactly_the_ratios_at_which_differences_are_beyond_chance():
    rng = random.Random(3)
    effect = {0.1: 4.0, 0.2: -4.0, 0.3: 0.0}
    cells = [cell("full", 1.0, seed, 91 + rng.gauss(0, 0.1)) for seed in range(4)]
    for ratio, lift in effect.items():
        cells += [cell("random", ratio, seed, 90 + rng.gauss(0, 0.3)) for seed in range(4)]
        cells += [cell("cosine", ratio, seed, 90 + lift + rng.gauss(0, 0.3)) for seed in range(4)]
    found = {(each.metric, each.ratio): each for each in means(cells)}
    for (metric, ratio), each in found.items():
        scores = [c.tuned.relative for c in cells if (c.metric, c.ratio) == (metric, ratio) and c.tuned]
        mean = sum(scores) / 4
        assert each.mean == pytest.approx(mean)
        assert each.standard_error == pytest.approx(math.sqrt(sum((s - mean) ** 2 for s in scores) / 3 / 4))
    for ratio in effect:
        one, other = found["cosine", ratio], found["random", ratio]
        t = abs(one.mean - other.mean) / math.hypot(one.standard_error, other.standard_error)
        tested: Any = ttest_ind(one.relatives, other.relatives, equal_var=False)
        assert bool(difference(one, other)) == (tested.pvalue < 0.05)
        assert (t > 4) == (difference(one, other) != 0)
    said = findings(None, list(found.values()), ())
    assert said[0] == "sft: cosine beats random selection at 0.1 and is worse at 0.2"
    assert said[1] == "sft: cosine beats training on all data at 0.1 and is worse at 0.2, 0.3"


def test_one_seed_proves_nothing():
    one, other = (
        Mean(method="sft", metric=name, ratio=0.5, relatives=(score,), mean=score, standard_error=None)
        for name, score in (("cosine", 99.0), ("random", 1.0))
    )
    assert difference(one, other) == 0
    assert "with one seed nothing says" in findings(None, (one, other), ())[-1]


def test_correlation_is_over_trainings_and_not_over_the_cells_that_share_them():
    cells = [cell("l0", ratio / 10, 0, 80 + ratio**2, weight=ratio / 10) for ratio in range(1, 6)]
    (found,) = correlations([*cells, *cells])
    assert found.n == 5
    assert found.spearman == pytest.approx(1)
    assert 0.9 < found.pearson < 1
