"""Several workers learn as one does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from curate.errors import ConfigurationError
from curate.training.folder import MODEL
from curate.training.job import plan
from curate.training.train import train
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
    one, both = (load_file(tmp_path / name / MODEL / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == both.keys()
    for name in one:
        assert torch.allclose(one[name], both[name], atol=2e-3), name
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


def test_adapters_are_not_sharded(half, tmp_path):
    with pytest.raises(ValueError, match="--strategy fsdp shards what is trained"):
        job(half, tmp_path, strategy="fsdp", parameters={"lora_r": 2})
