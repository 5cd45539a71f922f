"""What a doctor finds: nothing where nothing is wrong, and each thing that is, with what to do."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray

from curate.datasets import DatasetSpec
from curate.errors import ConfigurationError
from curate.manifest import fitness
from curate.manifest.inputs import INPUTS_FILE
from curate.models import ModelSpec
from curate.models.families import FAMILIES
from curate.pipeline import cluster, cluster_trial, preflight
from curate.pipeline.cluster import places, prepare_workers, shortage
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.preflight import examine
from curate.pipeline.probe import Probe, probe
from curate.pipeline.resources import Resources
from curate.pipeline.trial import Limits
from tests.hostile import write_broken_table


@pytest.fixture
def demo_plan(tmp_path):
    return plan(ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=40)))


@pytest.fixture
def no_trial(monkeypatch):
    monkeypatch.setattr(preflight, "_trial", lambda *_: [])


def probed(*arguments, **options) -> Probe:
    """All that a probe measures."""
    *_, seen = probe(*arguments, **options)
    return seen


def found(job: ScoreJob, **options) -> dict[str, tuple[str, str]]:
    return {finding.check: (finding.state, finding.text) for finding in examine(job, **options)}


@pytest.mark.parametrize(
    ("executor", "there"),
    [
        ("auto", ["machine", "memory"]),
        pytest.param("ray", ["cluster", "memory", "object store"], marks=pytest.mark.slow),
    ],
)
def test_nothing_is_wrong_with_the_demo_and_nothing_is_left_behind(executor, there, tmp_path, demo_prepared):
    job = ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=160), resources=Resources(executor=executor))
    findings = {finding.check: finding for finding in examine(job, price=2.0, limits=Limits(600))}
    # The demo model is so small that it may wait for its data.
    assert {finding.state for name, finding in findings.items() if name != "throughput"} == {"ok"}, findings
    assert findings["throughput"].state != "fail"
    assert list(findings) == [
        *("data", "sample", "model and SAE", "output", "storage", "settings", *there),
        *("throughput", "time", "SAE's fit", "computed GPU hours"),
    ]
    assert ray.is_initialized() is False
    assert list(tmp_path.iterdir()) == []
    # Every tenth sample was looked at.
    tokens = sum(len(sample.inputs.input_ids) for sample in demo_prepared[:160:10]) / 16
    assert findings["throughput"].numbers["tokens_per_sample"] == tokens
    assert findings["memory"].numbers["peak_bytes"] > 100e6
    assert "no GPU is used, so no cost" in findings["time"].text


@pytest.mark.usefixtures("no_trial")
def test_what_cannot_be_used_fails_and_the_rest_is_still_looked_at(tmp_path):
    job = ScoreJob(
        output=tmp_path / "run", dataset=DatasetSpec(name=str(tmp_path / "none")), model=ModelSpec(name="x"), sae="y"
    )
    states = {check: state for check, (state, _) in found(job).items()}
    assert states == {"data": "fail", "model and SAE": "fail", "output": "ok", "storage": "ok"}


@pytest.mark.usefixtures("no_trial")
def test_samples_that_cannot_be_read_are_counted(tmp_path):
    expected = write_broken_table(tmp_path / "data", rows=60, broken=27)
    job = ScoreJob(
        output=tmp_path / "run", dataset=DatasetSpec(name=str(tmp_path / "data")), model=ModelSpec(name="demo")
    )
    bad = len({index * 60 // 16 for index in range(16)} & set(expected))
    samples = [finding for finding in examine(job) if finding.check == "sample"]
    assert [finding.state for finding in samples] == ["ok", "warn"]
    assert samples[1].text.startswith(f"{bad} of 16 samples would be quarantined; row ")


@pytest.mark.usefixtures("no_trial")
def test_an_output_that_is_taken_and_settings_that_clash_are_found(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    job = ScoreJob(output=tmp_path / "run", weights=tmp_path / "nowhere")
    lines = found(job)
    assert lines["output"][0] == "fail"
    assert "is not a run folder, and holds other files" in lines["output"][1]
    assert lines["settings"][0] == "fail"
    assert "does not hold whole feature weights" in lines["settings"][1]


@pytest.mark.usefixtures("no_trial")
def test_a_run_that_is_there_goes_on_unless_it_is_to_be_replaced(tmp_path, whole):
    job = ScoreJob(output=whole / "run")
    before = (whole / "run" / INPUTS_FILE).read_bytes()
    assert found(job)["output"] == ("ok", f"{whole / 'run'} holds a run with 40 rows, which goes on")
    assert found(job, overwrite=True)["output"][1].endswith("which is replaced")
    assert (whole / "run" / INPUTS_FILE).read_bytes() == before


@pytest.mark.usefixtures("no_trial")
def test_a_disk_without_room_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fitness, "disk_usage", lambda _: SimpleNamespace(free=10))
    state, text = found(ScoreJob(output=tmp_path / "run"))["storage"]
    assert state == "fail"
    assert f"too little room (700.0 kB needed in {tmp_path}, 10 bytes free)" in text


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(demo_plan, monkeypatch):
    monkeypatch.setattr("curate.pipeline.probe.load_scorer", lambda *_: pytest.fail("it was loaded"))
    family = replace(demo_plan.model.family, n_parameters=lambda *_: 10**13)
    large = replace(demo_plan, model=replace(demo_plan.model, family=family))
    with pytest.raises(ConfigurationError, match=r"10000\.0 billion parameters up to layer 2 .* take 40\.0 TB"):
        probed(large, range(4), actors_here=1)


def test_the_parameters_that_are_loaded_are_counted(demo_plan, demo_cut):
    counted = demo_plan.model.family.n_parameters(demo_plan.model, demo_plan.hook_layer)
    left = sum(parameter.numel() for parameter in demo_cut.model.parameters())
    assert counted == left + demo_plan.model.d_model  # the final norm, which is loaded and then replaced


@pytest.mark.parametrize(
    ("nodes", "lacks"),
    [
        ([{"CPU": 9, "GPU": 4}], None),
        ([{"CPU": 4, "GPU": 4}, {"CPU": 5}], None),
        ([{"CPU": 9, "GPU": 3}], "4 GPUs, and there are 3"),
        ([{"CPU": 2, "GPU": 4}], "3 CPUs, and there are 2"),
        # Enough in all, but an actor's GPUs must be on one node.
        ([{"CPU": 9, "GPU": 1}] * 4, "2 × 1 CPUs and 2 GPUs on one node, and there is room for 0"),
        ([{"CPU": 9, "GPU": 3}, {"CPU": 9, "GPU": 1}], "2 × 1 CPUs and 2 GPUs on one node, and there is room for 1"),
    ],
)
def test_a_cluster_has_room_only_where_an_actor_fits_on_a_node(demo_plan, nodes, lacks):
    resources = demo_plan.job.resources.model_copy(update={"actors": 2, "gpus_per_actor": 2})
    job = demo_plan.job.model_copy(update={"resources": resources})
    assert shortage(replace(demo_plan, job=job, device="cuda", cpus_per_actor=1), nodes) == lacks


def huge(*_) -> int:
    return 10**13


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_refusal_on_the_node_is_a_line_and_no_traceback(executor, tmp_path, monkeypatch):
    family = replace(FAMILIES["llava_next"], n_parameters=huge)
    monkeypatch.setitem(FAMILIES, "llava_next", family)
    job = ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=3), resources=Resources(executor=executor))
    state, text = found(job)["throughput"]
    assert state == "fail"
    assert text.startswith("the model's 10000.0 billion parameters up to layer 2 and the SAE take 40.0 TB")
    assert "\n" not in text


def test_what_no_error_of_ours_stands_for_is_a_line_too(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no such device")

    monkeypatch.setattr(cluster_trial, "connected", broken)
    monkeypatch.setattr(preflight, "try_here", broken)
    for executor, check in (("ray", "cluster"), ("local", "throughput")):
        job = ScoreJob(output=tmp_path / "run", dataset=DatasetSpec(limit=3), resources=Resources(executor=executor))
        assert found(job)[check] == ("fail", "OSError: no such device")


def test_workers_leave_room_for_all_actors_that_may_come(demo_plan):
    def workers(nodes, **resources):
        resources = demo_plan.job.resources.model_copy(update=resources)
        job = demo_plan.job.model_copy(update={"resources": resources})
        return prepare_workers(replace(demo_plan, job=job, device="cuda", cpus_per_actor=1), nodes)

    four = [{"CPU": 8, "GPU": 1}] * 4
    assert workers(four, actors=4, min_actors=1) == 32 - 4 - 4
    assert workers(four, actors=4, min_actors=1, prepare_workers=100) == 32 - 4
    # Actors that have no place yet bring a node of their own.
    assert workers(four[:1], actors=4, min_actors=1) == 8 - 1 - 1
    assert workers(four, actors=4, prepare_workers=5) == 5
    assert workers([*four, {"CPU": 16, "cpu_node": 1}], actors=4, prepare_resources={"cpu_node": 0.1}) == 10
    assert workers([{"CPU": 1, "GPU": 1}], actors=1) == 1


def test_blocks_are_small_against_the_smallest_store():
    gib = 2**30
    assert cluster._block_bytes([{"object_store_memory": 100 * gib}, {"CPU": 1}]) == 32 * 2**20
    assert cluster._block_bytes([{"object_store_memory": gib}, {"object_store_memory": 100 * gib}]) == gib // 100


def test_a_growing_cluster_is_waited_for_and_asked_for_until_it_is_there(demo_plan, monkeypatch):
    resources = demo_plan.job.resources.model_copy(update={"actors": 3, "min_actors": 2, "address": "auto"})
    wanted = replace(demo_plan, job=demo_plan.job.model_copy(update={"resources": resources}), cpus_per_actor=1)
    sizes, asked, steps = iter(([], [{"CPU": 1}], [{"CPU": 1}, {"CPU": 2}])), [], []
    monkeypatch.setattr(cluster, "nodes", lambda: next(sizes))
    monkeypatch.setattr(cluster, "request_resources", lambda bundles: asked.append(len(bundles)))
    monkeypatch.setattr(cluster, "_SECONDS_BETWEEN_LOOKS", 0)
    cluster._wait_for_resources(wanted, steps.append)
    assert asked == [3, 3, 0]
    assert [step.lacks.partition(" (")[0] for step in steps] == ["3 CPUs, and there are 0", "3 CPUs, and there are 1"]


def test_what_computes_is_named_by_the_cluster(demo_plan, monkeypatch):
    monkeypatch.setattr(cluster, "nodes", lambda: [{"CPU": 1}, {"GPU": 8, "accelerator_type:H100": 1}])
    assert cluster.device_name(replace(demo_plan, device="cuda")) == "cuda (H100)"
    assert cluster.device_name(demo_plan) == "cpu"


def test_parts_of_a_gpu_fill_it():
    assert places({"CPU": 1, "GPU": 0.1}, [{"CPU": 64, "GPU": 1}]) == 10
    assert places({"CPU": 1, "GPU": 0.4}, [{"CPU": 64, "GPU": 4}]) == 8  # no part is of two
    assert places({"CPU": 1, "GPU": 0.5, "h200": 1}, [{"CPU": 64, "GPU": 8, "h200": 3}, {"CPU": 64, "GPU": 8}]) == 3
