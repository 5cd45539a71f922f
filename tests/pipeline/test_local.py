"""Runs without Ray: the same bytes as with it, whatever dies meanwhile, and which runs take which executor."""

import os
import signal
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from curate.datasets import DatasetSpec
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD
from curate.pipeline import local
from curate.pipeline.child import Child
from curate.pipeline.executor import is_local
from curate.pipeline.local import LocalExecutor
from curate.pipeline.resources import Resources
from tests.pipeline.small import content, failing, job, run


def weights(folder) -> list[bytes]:
    return [(folder / "weights" / name).read_bytes() for name in (WEIGHTS_FILE, WEIGHTS_RECORD)]


def test_ray_and_this_machine_alone_write_the_same_bytes(whole, tmp_path):
    run(job(tmp_path / "run", whole / "data", resources={"executor": "ray"}))
    assert content(tmp_path / "run") == content(whole / "run")
    assert weights(tmp_path / "run") == weights(whole / "run")


@pytest.mark.slow
def test_ray_and_this_machine_alone_write_the_same_bytes_of_real_photographs(real_data, tmp_path):
    dataset = DatasetSpec(name="align-anything", data_dir=real_data / "align_anything", split="all")
    for executor in ("local", "ray"):
        run(job(tmp_path / executor, None, dataset=dataset, resources={"executor": executor}))
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert weights(tmp_path / "ray") == weights(tmp_path / "local")


@pytest.fixture
def prepared(monkeypatch):
    """The ranges that were prepared for each stage."""
    seen: dict[str, list[int]] = {}
    made = local._Preparers.__init__

    def make(self, plan, dataset, ranges, stage, suspects):
        seen[stage] = [start for start, _ in ranges]
        made(self, plan, dataset, ranges, stage, suspects)

    monkeypatch.setattr(local._Preparers, "__init__", make)
    return seen


def test_what_was_prepared_for_weights_is_kept_for_scores_as_far_as_it_fits(whole, tmp_path, prepared, monkeypatch):
    kept: list[dict[int, int]] = []
    score = LocalExecutor.score

    def look_and_score(self, *arguments):
        sizes = {start: sum(len(each["payload"][0]) for each in blocks) for start, blocks in self._kept.items()}
        kept.append(sizes)
        score(self, *arguments)

    def scored(name: str, samples: int = 40) -> list[int]:
        """The ranges that were prepared again."""
        run(job(tmp_path / name, whole / "data", parameters={"weight_samples": samples, "batch_size": 700}))
        return sorted(prepared["score"])

    monkeypatch.setattr(LocalExecutor, "score", look_and_score)
    assert scored("all") == []
    assert sorted(kept[0]) == [0, 10, 20, 30]
    limit = sum(kept[0].values()) // 2
    monkeypatch.setattr(local, "_KEPT_BYTES", limit)
    again = scored("half")
    assert 0 < len(again) < 4
    assert sum(kept[1].values()) <= limit
    assert sorted([*again, *kept[1]]) == [0, 10, 20, 30]
    monkeypatch.setattr(local, "_KEPT_BYTES", 0)
    assert scored("none") == [0, 10, 20, 30]
    assert content(tmp_path / "none") == content(tmp_path / "half") == content(tmp_path / "all")
    monkeypatch.undo()


def test_whatever_dies_once_the_bytes_are_the_same(whole, tmp_path, monkeypatch):
    """In each pass a process that prepares, in the middle of a range, and the one that holds the model."""
    ask, answers, killed = Child.ask, local._Preparers.__iter__, []

    def kill(child: Child, what: str) -> None:
        if what not in killed:
            killed.append(what)
            os.kill(child.pid, signal.SIGKILL)

    def ask_and_kill(self, method, *arguments):
        ask(self, method, *arguments)
        if method in ("take", "scorer"):
            kill(self, method)

    def answer_and_kill(self):
        for block in answers(self):
            # Its range comes again from its beginning, this block included: more than one fits no pipe.
            [at_work] = [child for child, (start, _) in self._asked.items() if start == block["start"][0]]
            kill(at_work, f"prepare after {'take' if 'take' in killed else 'nothing'}")
            yield block

    small = {"batch_size": 700}
    run(job(tmp_path / "undisturbed", whole / "data", parameters=small))
    monkeypatch.setattr(Child, "ask", ask_and_kill)
    monkeypatch.setattr(local._Preparers, "__iter__", answer_and_kill)
    run(job(tmp_path / "run", whole / "data", parameters=small))
    assert sorted(killed) == ["prepare after nothing", "prepare after take", "scorer", "take"]
    assert content(tmp_path / "run") == content(tmp_path / "undisturbed")
    assert weights(tmp_path / "run") == weights(tmp_path / "undisturbed")
    assert failing(tmp_path / "run") == {}


OF_RAY = {
    "--actors": {"actors": 2},
    "--address": {"address": "auto"},
    "--gpus-per-actor": {"gpus_per_actor": 2},
    "--actor-resources": {"actor_resources": {"h200": 1}},
    "--prepare-resources": {"prepare_resources": {"cpu_node": 0.1}},
}


def runs_here(resources: Resources, device: str = "cpu", rows: int = 10**6) -> bool:
    plan = SimpleNamespace(job=SimpleNamespace(resources=resources), device=device)
    return is_local(plan, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "given"), OF_RAY.items())
def test_what_only_ray_can_follow_is_refused_by_name_and_taken_to_ray(option, given):
    with pytest.raises(ValidationError, match=f"--executor local runs one actor on this machine; {option} takes"):
        Resources(executor="local", **given)
    assert not runs_here(Resources(**given))


def test_one_process_serves_without_a_cluster_and_without_long_work_on_a_gpu(monkeypatch):
    assert runs_here(Resources(prepare_workers=3, cpus_per_actor=2))
    assert runs_here(Resources(gpus_per_actor=1), "cuda", rows=1000)
    assert runs_here(Resources(), "cuda", rows=1000)
    assert not runs_here(Resources(), "cuda", rows=1001)
    assert runs_here(Resources(executor="local"), "cuda")
    assert not runs_here(Resources(executor="ray"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not runs_here(Resources())
    assert runs_here(Resources(executor="local"))
