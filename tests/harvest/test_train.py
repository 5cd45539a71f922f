"""A training that is cut off ends as the undisturbed one does, and whatever is in the way is said."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from curate.datasets import DatasetSpec
from curate.errors import ConfigurationError, DataError, RunStopped
from curate.harvest.job import SAETrainJob
from curate.harvest.plan import plan
from curate.harvest.train import CHECKPOINT, CURVE, RECORD, local_chunks, train
from curate.models import ModelSpec
from curate.sae.parameters import TrainingParameters

STEPS = 40


def job(output: Path, **changes) -> SAETrainJob:
    fields = {
        "output": str(output),
        "model": ModelSpec(name="demo"),
        "dataset": DatasetSpec(limit=200),
        "hook_layer": 2,
        "context_size": 400,
        "n_batches_in_buffer": 6,
        "checkpoint_every": 4,
        "log_every": 1,
        "parameters": TrainingParameters(
            architecture="batchtopk",
            expansion=2,
            k=6,
            steps=STEPS,
            train_batch_size_tokens=512,
            lr=3e-3,
            lr_decay_steps=9,
        ),
    }
    return SAETrainJob(**{**fields, **changes})


def run(the_job: SAETrainJob, **options):
    the_plan = plan(the_job)
    return train(the_plan, options.pop("report", lambda step: None), local_chunks(the_plan), **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "sae"
    run(job(output))
    return output


def curve(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / CURVE).read_text().splitlines()]


def assert_same(output: Path, other: Path) -> None:
    one, two = (load_file(folder / "sae_weights.safetensors") for folder in (output, other))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert curve(output) == curve(other)
    records = [json.loads((folder / RECORD).read_text()) for folder in (output, other)]
    for record in records:
        record.pop("seconds")
        record["job"].pop("output")
    assert records[0] == records[1]


@pytest.mark.parametrize("times", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_training_killed_at_random_steps_ends_with_the_same_weights(times, tmp_path, undisturbed):
    """SIGKILL, between any two instructions of real processes."""
    output, rng = tmp_path / "sae", random.Random(11)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(job(output).model_dump(mode="json", exclude_none=True)))
    killed_at: list[int] = []
    while not output.exists() or (output / RECORD).exists():  # anew where it ended before a signal came
        shutil.rmtree(output, ignore_errors=True)
        killed_at = []
        for target in sorted(rng.sample(range(2, STEPS // 2), times)):
            process = subprocess.Popen([sys.executable, "-m", "curate", "run", str(file)], stderr=subprocess.DEVNULL)
            while process.poll() is None and (not (output / CURVE).exists() or len(curve_lines(output)) < target):
                time.sleep(0.001)
            time.sleep(rng.random() * 0.03)
            process.kill()
            assert process.wait() in (0, -signal.SIGKILL)
            killed_at.append(len(curve_lines(output)))
    assert killed_at == sorted(killed_at)
    run(job(output))
    assert_same(output, undisturbed)


def curve_lines(output: Path) -> list[str]:
    return (output / CURVE).read_text().splitlines()


def test_ctrl_c_leaves_a_checkpoint_of_the_very_step(tmp_path, undisturbed):
    output = tmp_path / "sae"

    def interrupt(step):
        if step.done == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped at step 7; the same command"):
        run(job(output), report=interrupt)
    assert [path.name for path in (output / CHECKPOINT).iterdir()] == ["step-000000007"]
    modes = {path.name: path.stat().st_mode for path in (output / CHECKPOINT / "step-000000007").iterdir()}
    assert set(modes.values()) == {(output / CURVE).stat().st_mode}, modes
    run(job(output))
    assert_same(output, undisturbed)
    assert not (output / CHECKPOINT).exists()


def test_what_is_done_is_not_done_again(undisturbed):
    steps = []
    record = run(job(undisturbed), report=steps.append)
    assert not steps
    assert record.tokens == STEPS * 512


def test_other_settings_are_refused_by_name(tmp_path, undisturbed):
    with pytest.raises(ConfigurationError, match=r"another n_batches_in_buffer 6 ≠ 7; choose another folder"):
        run(job(undisturbed, n_batches_in_buffer=7))
    other = job(undisturbed, parameters=job(undisturbed).parameters.model_copy(update={"lr": 1e-3}))
    with pytest.raises(ConfigurationError, match=r"another lr 0.003 ≠ 0.001"):
        run(other)
    with pytest.raises(ConfigurationError, match="another data "):
        run(job(undisturbed, dataset=DatasetSpec(limit=200, seed=5)))
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "cfg.json").write_text("theirs")
    with pytest.raises(ConfigurationError, match=r"holds thesis.txt, which is no training's"):
        run(job(tmp_path), overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "cfg.json").read_text() == "theirs"
    (tmp_path / "thesis.txt").unlink()
    with pytest.raises(ConfigurationError, match="holds an SAE already; --overwrite replaces it"):
        run(job(tmp_path))


def test_a_training_that_diverges_ends_and_keeps_no_such_state(tmp_path):
    diverging = job(tmp_path).parameters.model_copy(update={"lr": 1e30})
    with pytest.raises(RunStopped, match="is NaN or infinite: begin anew with a lower --lr"):
        run(job(tmp_path, parameters=diverging))
    assert not (tmp_path / "cfg.json").exists()
    assert "NaN" not in (tmp_path / CURVE).read_text()


def test_a_damaged_checkpoint_is_said(tmp_path):
    def interrupt(step):
        if step.done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(job(tmp_path), report=interrupt)
    file = next(tmp_path.glob(f"{CHECKPOINT}/step-*/buffer.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"checkpoint .* cannot be read, .*; if it is damaged, --overwrite begins anew"):
        run(job(tmp_path))


def test_the_dictionary_says_what_it_was_trained_on(undisturbed, demo_info):
    from sae_lens import SAE

    metadata = SAE.load_from_disk(undisturbed).cfg.metadata
    record = json.loads((undisturbed / RECORD).read_text())
    assert (metadata.hook_layer, metadata.model_hash) == (2, demo_info.sha256)
    assert metadata.training["dataset_sha256"] == plan(job(undisturbed)).harvest.corpus.fingerprint()
    assert metadata.activation_scale == record["scale"]
    assert metadata.training["tokens"] == record["tokens"] == STEPS * 512
    assert 0.6 < record["image_share"] < 0.9
    assert curve(undisturbed)[-1]["metrics/explained_variance"] > curve(undisturbed)[0]["metrics/explained_variance"]


def test_data_with_nothing_to_learn_from_end_the_training(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": ""}\n{"text": "  "}\n')
    with pytest.raises(DataError, match="no token to learn from: 2 of 2 rows left out"):
        run(job(tmp_path / "sae", dataset=DatasetSpec(name=str(file))))
