"""Several workers learn as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from curate import demo
from curate.errors import ConfigurationError
from curate.training.folder import MODEL
from curate.training.plan import plan
from curate.training.train import train
from tests.cluster.nodes import cluster
from tests.training.small import job, run_job

PARAMETERS = {"max_steps": 2, "validation_share": 0, "gradient_accumulation_steps": 1}


@pytest.mark.slow
def test_two_workers_end_where_one_does_with_twice_the_batch(half, tmp_path):
    """But for rounding, where every sample of a step weighs the same, as in DPO."""
    steps = []
    two = job(half, tmp_path / "two", "dpo", parameters={**PARAMETERS, "batch_size": 2}, workers=2)
    record = run_job(two, report=steps.append)
    assert record.steps == 2
    run_job(job(half, tmp_path / "one", "dpo", parameters={**PARAMETERS, "batch_size": 4}))
    base = load_file(demo.MODEL / "model.safetensors")
    one, both = (load_file(tmp_path / name / MODEL / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == both.keys() == base.keys()
    learned = sum((one[name] - base[name]).square().sum() for name in base)
    apart = sum((one[name] - both[name]).square().sum() for name in base)
    # Adam takes a step of the same size for a gradient of nearly nothing, whose sign is that of rounding.
    assert apart < 0.01 * learned
    losses = [json.loads(Path(tmp_path / name / "curve.jsonl").read_text().splitlines()[1]) for name in ("one", "two")]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], abs=1e-3)
    again = []
    train(plan(two), again.append)
    assert not again


@pytest.mark.slow
def test_more_workers_than_there_is_room_for_are_refused(half, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1.0})
    with pytest.raises(ConfigurationError, match="--workers 2: each takes a CPU, and there are 1"):
        run_job(job(half, tmp_path, "dpo", parameters=PARAMETERS, workers=2))


@pytest.mark.slow
def test_one_worker_of_a_cluster_ends_where_this_process_does(half, tmp_path, tuned):
    """As in a submitted job, whose driver may have no GPU: the node that trains reads plan, model and data itself."""
    file = tmp_path / "job.json"
    file.write_text(job(half, tmp_path / "there", "dpo").model_dump_json(exclude_none=True))
    with cluster(cpus=(2,)) as nodes:
        environment = {**os.environ, **nodes.environment, "RAY_ADDRESS": nodes.address}
        command = [sys.executable, "-m", "curate", "run", str(file)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "training steps: 3/3" in result.stderr
    one, there = (load_file(folder / MODEL / "model.safetensors") for folder in (tuned, tmp_path / "there"))
    for name in one:
        assert torch.allclose(one[name], there[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "fsdp", "workers": 2, "parameters": {"lora_r": 2}}, "--strategy fsdp shards what is trained"),
        ({"strategy": "fsdp"}, "--strategy fsdp divides a model between workers"),
        ({"parameters": {"lora_r": 2, "freeze_vision_tower": False}}, "--train-vision-tower: with --lora-r only"),
    ],
)
def test_options_that_would_do_nothing_are_refused(half, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        job(half, tmp_path, **changes)
