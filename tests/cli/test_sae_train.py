"""`curate sae train`: what its options mean, and a training by it."""

import json

import pytest
import yaml
from sae_lens import SAE
from typer.testing import CliRunner

from curate.cli.main import app
from curate.harvest.job import SAETrainJob
from tests.tensorboard import events

RUNNER = CliRunner()


def train(*options):
    return RUNNER.invoke(app, ["sae", "train", *map(str, options)])


def job(*options) -> SAETrainJob:
    result = train("--output", "/x", *options, "--print-job")
    assert result.exit_code == 0, result.output
    return SAETrainJob.model_validate(yaml.safe_load(result.stdout))


def test_the_papers_presets_are_its_table_2_and_every_field_can_be_overridden():
    llava = job("--preset", "llava-next-7b", "--dataset", "obelics")
    assert (llava.model.name, llava.hook_layer) == ("llava-hf/llava-v1.6-mistral-7b-hf", 16)
    assert (llava.context_size, llava.n_batches_in_buffer, llava.parameters.expansion) == (4096, 32, 16)
    chameleon = job("--preset", "chameleon-7b", "--dataset", "obelics")
    assert (chameleon.model.name, chameleon.hook_layer) == ("facebook/chameleon-7b", 8)
    assert (chameleon.context_size, chameleon.n_batches_in_buffer, chameleon.parameters.expansion) == (2048, 64, 32)
    for each in (llava, chameleon):
        p = each.parameters
        assert (p.architecture, p.steps, p.train_batch_size_tokens, p.lr) == ("standard", 30_000, 4096, 5e-5)
        assert (p.l1_coefficient, p.l1_warm_up_steps, p.lr_decay_steps, p.seed) == (5, 1500, 6000, 42)
    changes = ["--hook-layer", 3, "--lr", 0.1, "--model", "m/m", "--limit", 7]
    other = job("--preset", "llava-next-7b", "--dataset", "d", *changes)
    assert (other.model.name, other.hook_layer, other.parameters.lr) == ("m/m", 3, 0.1)
    assert (other.dataset.name, other.dataset.limit, other.dataset.seed) == ("d", 7, 0)


def test_nothing_named_is_the_demo_whose_data_nobody_scores():
    assert (job().model.name, job().dataset.name, job().dataset.seed) == ("demo", "demo", 1_000_003)
    assert job("--data-seed", 5).dataset.seed == 5
    elsewhere = job("--model", "m/m", "--hook-layer", 1, "--dataset", "demo")
    assert (elsewhere.dataset.seed, elsewhere.parameters.architecture) == (1_000_003, "standard")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "llava-next-7b"], "--dataset: name the data to train llava-next-7b on"),
        (["--model", "m/m", "--hook-layer", "1"], "--dataset: name the data to train m/m on"),
        (["--dataset", "rlaif-v"], "name the --model to train on"),
        (["--model", "m/m", "--dataset", "demo"], "--hook-layer: say after which"),
        (["--hook-layer", "9"], "demo has layers 0 to 3"),
        (["--k", "5000"], "there are 768 features"),
        (["--image-share", "1.5"], "--image-share: Input should be less than"),
        (["--log-to", "tb"], "--log-to: Input should be 'tensorboard' or 'wandb'"),
        (["--lr-decay-steps", "700"], "more than the 600 steps"),
        (["--columns", "text"], "--columns: text is not of the form"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tmp_path, options, message):
    result = train("--output", tmp_path / "x", *options)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_elsewhere_is_refused():
    result = train("--output", "s3://store/sae")
    assert result.exit_code == 2
    assert "this is written on this machine" in result.stderr.replace("\n", " ")


def test_a_training_is_recorded_logged_and_not_repeated(tmp_path):
    options = ["--output", tmp_path / "sae", "--steps", 6, "--n-batches-in-buffer", 1, "--context-size", 500]
    options += ["--train-batch-size-tokens", 256, "--expansion", 2, "--log-every", 2, "--log-to", "tensorboard"]
    result = train(*options, "--image-share", 0.5, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["tokens"], record["d_sae"]) == (6 * 256, 192)
    assert record["image_share"] == pytest.approx(0.5, abs=0.01)
    assert SAE.load_from_disk(tmp_path / "sae").cfg.metadata.hook_layer == 2
    curve = [json.loads(line) for line in (tmp_path / "sae" / "curve.jsonl").read_text().splitlines()]
    logged = {
        (event.step, value.tag): value.simple_value
        for event in events(tmp_path / "sae" / "tensorboard")
        for value in event.summary.value
    }
    assert [line.pop("step") for line in curve] == [2, 4, 6]
    for step, line in zip((2, 4, 6), curve, strict=True):
        for name, value in line.items():
            assert logged[step, name] == pytest.approx(value, rel=1e-6)
    again = train(*options, "--image-share", 0.5, "--json")
    assert json.loads(again.stdout) == record
    other = train(*options, "--image-share", 0.4)
    assert other.exit_code == 2
    assert "another image_share 0.5 ≠ 0.4" in other.stderr.replace("\n", " ")
