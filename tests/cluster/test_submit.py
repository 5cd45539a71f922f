"""Jobs on a cluster of three nodes: submitted, watched, stopped, gone on with, and robbed of a node."""

import ast
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.pipeline.meter import COUNTERS
from tests.cli.test_cli import curate, refused
from tests.cluster.nodes import Cluster, cluster, wait_until
from tests.command import refused as refused_here
from tests.pipeline.small import failing

SCORES = ("cosine", "cooccurrence", "l0", "random")
JOB = """
kind: score
output: run
dataset: {{name: demo, limit: {rows}}}
parameters: {{weight_samples: 40, batch_size: 600}}
resources: {{actors: 2, prepare_workers: 1}}
shard_rows: 15
"""


@pytest.fixture(scope="module")
def nodes():
    with cluster(cpus=(1, 2, 2), resources=("{}", '{"computes": 1}', '{"prepares": 1}')) as running:
        yield running


def on(nodes: Cluster, folder: Path, *arguments: object):
    return curate(*arguments, "--address", nodes.dashboard, cwd=folder, **nodes.environment)


def submitted(nodes: Cluster, folder: Path) -> dict:
    result = on(nodes, folder, "submit", "job.yaml", "--installed", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)[0]


def state(nodes: Cluster, folder: Path, name: str) -> str:
    return json.loads(on(nodes, folder, "status", name, "--json").stdout)["state"]


def shards(folder: Path) -> int:
    return len(list((folder / "run" / "shards").glob("*.json")))


@pytest.mark.slow
def test_twice_is_once_and_what_was_stopped_goes_on(nodes, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB.format(rows=300).replace("actors: 2", "actors: 1"))
    job = submitted(nodes, tmp_path)
    # The same job, written otherwise.
    (tmp_path / "job.yaml").write_text("# once more\n" + (tmp_path / "job.yaml").read_text())
    assert submitted(nodes, tmp_path)["id"] == job["id"]
    wait_until(lambda: shards(tmp_path) >= 2)
    stopped = on(nodes, tmp_path, "stop", job["id"])
    assert stopped.stdout == f"{job['id']} is STOPPED\n", stopped.stderr
    kept = shards(tmp_path)
    assert 2 <= kept < 20
    assert not (tmp_path / "run" / "run.json").exists()
    assert "go on with: curate score --resume" in on(nodes, tmp_path, "logs", job["id"]).stdout

    again = on(nodes, tmp_path, "submit", "job.yaml", "--installed", "--follow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.startswith(f"{job['id']}-2 was submitted")
    assert "resuming: " in again.stdout
    assert "300 scored + 0 quarantined = 300 read" in again.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["shards"]["kept"] >= kept
    assert failing(tmp_path / "run") == {}

    # An address that is given counts, whatever the environment says.
    other = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1", **nodes.environment}
    assert curate("jobs", "--address", nodes.dashboard, cwd=tmp_path, **other).returncode == 0
    listed = {each["id"]: each for each in json.loads(on(nodes, tmp_path, "jobs", "--json").stdout)}
    assert listed[job["id"]]["state"] == "STOPPED"
    assert listed[f"{job['id']}-2"]["state"] == "SUCCEEDED"
    assert listed[job["id"]]["output"] == str(tmp_path / "run")
    done = on(nodes, tmp_path, "submit", "job.yaml", "--installed")
    assert done.stdout == f"{job['id']}-2 was submitted before, and is SUCCEEDED\nit is done; --again runs it again\n"
    assert job["id"] in on(nodes, tmp_path, "jobs").stdout


@pytest.mark.slow
def test_every_node_exports_the_counters_of_its_actors(nodes, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB.format(rows=1500).replace("actors: 2", "actors: 1"))
    job = submitted(nodes, tmp_path)
    code = (
        "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR');"
        "print([f\"{n['NodeManagerAddress']}:{n['MetricsExportPort']}\" for n in ray.nodes() if n['Alive']])"
    )
    environment = {**os.environ, **nodes.environment}
    result = subprocess.run(
        [sys.executable, "-c", code, nodes.address], env=environment, capture_output=True, text=True
    )
    places = ast.literal_eval(result.stdout.splitlines()[-1])

    def exported() -> str:
        texts = []
        for place in places:
            with urllib.request.urlopen(f"http://{place}/metrics") as page:
                texts.append(page.read().decode())
        return "\n".join(texts)

    wait_until(lambda: "ray_curate_samples_total{" in exported())
    text = exported()
    for name in set(COUNTERS) - {"quarantined", "shared_tokens"}:
        assert f"ray_curate_{name}_total{{" in text, name
    assert 'stage="weights"' in text
    on(nodes, tmp_path, "stop", job["id"])


@pytest.mark.slow
def test_actors_and_workers_go_where_their_resources_are(nodes, tmp_path):
    places = "{actors: 1, actor_resources: {computes: 0.5}, prepare_resources: {prepares: 0.5}}"
    (tmp_path / "job.yaml").write_text(
        JOB.format(rows=1500)
        .replace("{actors: 2, prepare_workers: 1}", places)
        .replace("{weight_samples", "{metrics: [l0], weight_samples")
    )
    job = submitted(nodes, tmp_path)
    wait_until(lambda: shards(tmp_path) >= 1)
    at_work = {
        worker: [node.name for node in nodes.nodes if any(worker in " ".join(p.cmdline()) for p in node.processes())]
        for worker in ("ScoreActor", "PrepareWorker")
    }
    on(nodes, tmp_path, "stop", job["id"])
    assert at_work == {"ScoreActor": [nodes.nodes[1].name], "PrepareWorker": [nodes.nodes[2].name]}


def test_what_cannot_be_asked_of_a_cluster_is_refused_in_a_line(nodes, tmp_path):
    (tmp_path / "job.yaml").write_text("kind: score\noutput: run\nresources: {address: 'auto'}\n")
    job, place = tmp_path / "job.yaml", ("--address", nodes.dashboard)
    refused_here("a job runs on the cluster that it is given to", "submit", job, *place, codes=(2,))
    refused(on(nodes, tmp_path, "logs", "score-0123"), "the cluster knows no job score-0123; curate jobs lists")
    wrong = {**nodes.environment, "RAY_AUTH_TOKEN": "0" * 32}
    result = curate("jobs", "--address", nodes.dashboard, cwd=tmp_path, **wrong)
    refused(result, "does not take the token in RAY_AUTH_TOKEN")


def test_a_job_that_fails_says_so(nodes, tmp_path):
    (tmp_path / "job.yaml").write_text("kind: select\nrun: no-run\ntop: 1\n")
    result = on(nodes, tmp_path, "submit", "job.yaml", "--installed", "--follow")
    assert result.returncode == 1
    assert "is not a run folder" in result.stdout
    assert result.stderr.rstrip().endswith(" is FAILED: Job entrypoint command failed with exit code 1")


def test_a_cluster_that_is_too_small_is_waited_for_and_then_refused(nodes, tmp_path):
    started = time.monotonic()
    result = curate(
        *("score", "--limit", 3, "--actors", 50, "--address", nodes.address, "--cluster-wait", 2),
        *("--output", "run", "--metric", "l0"),
        cwd=tmp_path,
        **nodes.environment,
    )
    assert result.returncode == 2
    assert time.monotonic() - started > 2
    assert "waiting for the cluster: it needs 51 CPUs, and there are " in result.stderr
    assert "the actors and workers need 51 CPUs" in result.stderr.splitlines()[-1]


def test_a_driver_that_nodes_cannot_reach_is_refused_and_does_not_wait_for_ever(nodes, tmp_path):
    if not nodes.nodes[0].enter:
        pytest.skip("network namespaces cannot be made here, so every node reaches every process")
    options = ("--limit", 3, "--address", nodes.address, "--output", "run", "--metric", "l0")
    message = "its nodes cannot reach this machine, at .*: run this in the cluster's network, or give the job to the"
    result = curate("score", *options, cwd=tmp_path, **nodes.environment)
    assert result.returncode == 2, result.stderr
    assert re.search(message, result.stderr.splitlines()[-1])
    result = curate("score", *options, "--dry-run", cwd=tmp_path, **nodes.environment)
    assert result.returncode == 1
    assert re.search(f"FAIL nodes: .*{message}", result.stdout)


@pytest.mark.slow
def test_a_dry_run_looks_where_the_job_would_run(nodes, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB.format(rows=30))
    result = on(nodes, tmp_path, "submit", "job.yaml", "--installed", "--dry-run", "--price-per-gpu-hour", 2)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no GPU is used, so no cost" in result.stdout
    assert "ok   nodes: every node sees the data, model and SAE, and reaches this process" in result.stdout
    assert "ok   time: about " in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]
    (tmp_path / "job.yaml").write_text(JOB.format(rows=30).replace("actors: 2", "actors: 2, cpus_per_actor: 3"))
    result = on(nodes, tmp_path, "submit", "job.yaml", "--installed", "--dry-run")
    assert "waits 600 seconds for an autoscaler to add them" in result.stdout
    assert "warn throughput: no node has what an actor needs now" in result.stdout


@pytest.mark.slow
def test_a_worker_node_that_dies_costs_nothing(nodes, tmp_path):
    """The last test of these nodes, which are two afterwards."""
    (tmp_path / "job.yaml").write_text(JOB.format(rows=150))
    job = submitted(nodes, tmp_path)
    assert submitted(nodes, tmp_path)["id"] == job["id"]
    wait_until(lambda: shards(tmp_path) >= 2)
    # One that computes; the job's driver is on the head.
    victim = next(
        node for node in nodes.nodes[1:] if any("ScoreActor" in " ".join(p.cmdline()) for p in node.processes())
    )
    victim.kill()
    killed_at = shards(tmp_path)
    assert killed_at < 10
    # To ask for its state all the time would take a core from it.
    wait_until((tmp_path / "run" / "run.json").exists)
    wait_until(lambda: state(nodes, tmp_path, job["id"]) not in ("PENDING", "RUNNING"))
    assert state(nodes, tmp_path, job["id"]) == "SUCCEEDED", on(nodes, tmp_path, "logs", job["id"]).stdout
    assert failing(tmp_path / "run") == {}
    local = tmp_path / "local"
    local.mkdir()
    (local / "job.yaml").write_text(JOB.format(rows=150).replace("actors: 2", "actors: 1"))
    assert curate("run", "job.yaml", cwd=local).returncode == 0
    one, other = (
        {row["sample_id"]: row for row in pq.read_table(folder / "run" / "manifest.parquet").to_pylist()}
        for folder in (tmp_path, local)
    )
    assert one.keys() == other.keys()
    assert len(one) == 150
    for name in SCORES:
        assert all(row[name] == pytest.approx(other[key][name], abs=1e-5) for key, row in one.items())
