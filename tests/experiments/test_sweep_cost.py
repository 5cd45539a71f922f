"""A sweep's computed cost, by hand."""

from pathlib import Path

import pytest

from curate.experiments.sweep_cost import Lengths, cost, mean_lengths, training_passes
from curate.experiments.sweep_job import SweepJob, n_trainings
from curate.experiments.sweep_plan import plan
from curate.jobs.doctor import examine
from curate.training.job import TuningParameters

LENGTHS = Lengths(100.0, 50.0)
ONE_STEP = {"batch_size": 4, "gradient_accumulation_steps": 1, "epochs": 1, "validation_share": 0}


def job(output: Path, **changes) -> SweepJob:
    fields = {
        "output": str(output),
        "score": {"dataset": {"limit": 24}},
        "metrics": ["l0", "random"],
        "ratios": ["0.5"],
        "seeds": 2,
        "methods": ["sft", "dpo"],
        "training": ONE_STEP,
        "evaluation": {"bench": "demo", "limit": 6},
        "parallel": 1,
    }
    return SweepJob.model_validate({**fields, **changes})


@pytest.mark.parametrize(
    ("method", "changes", "operations"),
    [
        ("sft", {}, 12 * 100 * 6),
        ("sft", {"epochs": 3}, 3 * 12 * 100 * 6),
        ("sft", {"gradient_checkpointing": True}, 12 * 100 * 8),
        ("sft", {"lora_r": 2}, 12 * 100 * 4),
        ("sft", {"max_steps": 5}, 5 * 4 * 100 * 6),
        ("dpo", {}, 12 * 150 * (6 + 2)),
        # 4 of 12 validate, after the only step of each of 2 epochs that is counted, and after the last.
        ("sft", {"validation_share": 0.34, "epochs": 2, "evaluate_every": 2}, (16 * 6 + 2 * 4 * 2) * 100),
    ],
)
def test_operations_of_one_training(method, changes, operations):
    p = TuningParameters.model_validate({**ONE_STEP, **changes})
    assert training_passes(p, 1, method, 12, LENGTHS) == operations


def test_lengths_are_those_of_the_models_own_inputs(demo_info, tmp_path):
    spec = plan(job(tmp_path)).dataset
    found = mean_lengths(demo_info, spec)
    assert 20 < found.rejected < found.chosen + 20 < 400


def test_the_whole_is_the_sum_of_its_trainings_and_evaluations(tmp_path):
    """Half by l0 and by random, all: 3 selections, 2 seeds, 2 methods, and the base."""
    the_plan = plan(job(tmp_path, keep_models=True))
    found = cost(the_plan)
    assert n_trainings(the_plan.job)[0] == 12
    model = the_plan.base.candidate.model
    lengths = mean_lengths(model, the_plan.dataset)
    n = model.family.n_parameters(model, model.n_layers - 1)
    both = lengths.chosen * 6 + (lengths.chosen + lengths.rejected) * 8
    assert found.training_hours * 3600 * 0.4 * 989e12 == pytest.approx(n * 2 * (2 * 12 + 24) * both)
    read, said = 13 * 6 * lengths.chosen / 0.4, 13 * 6 * the_plan.base.candidate.max_new_tokens / 0.005
    assert found.generation_hours * 3600 * 989e12 == pytest.approx(2 * n * (read + said))
    assert found.judge_calls == 0
    assert found.kept_bytes == 12 * 4 * n
    assert found.peak_bytes == 12 * 4 * n + 3 * 12 * n


def test_each_answer_is_judged_in_each_order(tmp_path, monkeypatch):
    monkeypatch.setenv("CURATE_JUDGE_KEY", "sk-no-key-at-all")
    judge = {"url": "http://127.0.0.1:1/v1", "model": "j", "order": "both"}
    the_plan = plan(job(tmp_path, evaluation={"bench": "demo", "limit": 6, "judge": judge}))
    assert cost(the_plan).judge_calls == 13 * 6 * 2


def test_a_doctor_says_hours_calls_and_disk_and_that_hours_are_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.jobs.doctor.examine_score", lambda *job, **options: iter(()))
    found = {finding.check: finding for finding in examine(job(tmp_path), price=2.0)}
    assert list(found) == ["sweep", "time", "judge", "disk"]
    assert "computed, not measured: 6 operations for each parameter" in found["time"].text
    assert "40% of an H100's 989 TFLOP/s" in found["time"].text
    assert found["judge"].text == "no calls: the bench is judged by rules"
    monkeypatch.setattr("curate.jobs.doctor.free_bytes", lambda folder: 10)
    disk = [finding for finding in examine(job(tmp_path)) if finding.check == "disk"]
    assert disk[0].state == "fail"
