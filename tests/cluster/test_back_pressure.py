"""Prepared batches never pile up: a run whose prepared data are twenty times the object store, and fast to prepare."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest

from bench import cheap, driver
from tests.cluster.nodes import cluster

STORE, SAMPLES, SAMPLE = 100 * 2**20, 2000, 2**20
RUN = """
import sys
from bench import cheap
from curate.models.families import FAMILIES
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score

FAMILIES[cheap.FAMILY.model_type] = cheap.FAMILY
record = score(ScoreJob.model_validate_json(sys.argv[1]), lambda step: None, lambda plan, rows: None)
print(record.model_dump_json())
"""


@pytest.mark.slow
def test_data_of_twenty_times_the_object_store_pass_through_it(tmp_path):
    assert SAMPLES * SAMPLE >= 20 * STORE
    model, sae = cheap.write_model_and_sae(tmp_path, SAMPLE, sample_seconds=0.006)
    data = driver.write_data(tmp_path / "data", SAMPLES)
    with cluster(cpus=(4,), store_bytes=STORE) as nodes:
        job = {
            "output": str(tmp_path / "run"),
            "dataset": {"name": str(data)},
            "model": {"name": str(model)},
            "sae": str(sae),
            "parameters": {"hook_layer": 0, "metrics": ["l0"], "batch_size": 4 * cheap.TOKENS},
            "resources": {"address": nodes.address, "prepare_workers": 2},
            "shard_rows": 100,
        }
        command = [*nodes.nodes[0].enter, sys.executable, "-c", RUN, json.dumps(job)]
        environment = {**os.environ, **nodes.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        used = []
        while run.poll() is None:
            time.sleep(0.5)
            with urllib.request.urlopen(nodes.metrics) as page:
                text = page.read().decode()
            used += [float(value) for value in re.findall(r"^ray_object_store_used_memory\{[^}]*\} (\S+)", text, re.M)]
        assert run.stdout is not None
        record = json.loads(run.stdout.read().splitlines()[-1])
        summary = subprocess.run(
            [f"{sys.executable.removesuffix('python')}ray", "memory", "--stats-only", f"--address={nodes.address}"],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert record["counts"]["scored"] == SAMPLES
    assert 4 * SAMPLE < max(used) < STORE
    assert "Plasma memory usage" in summary.stdout
    assert "Spilled" not in summary.stdout
    # Preparation was far ahead of the actor, and waited for it.
    assert record["throughput"]["score"]["queued_batches"] > 1
