"""`curate train`: what its options mean."""

import yaml
from typer.testing import CliRunner

from curate.cli.main import app
from curate.training.job import TrainJob


def job(method: str, *options: object) -> TrainJob:
    arguments = ["train", method, "--data", "/d", "--output", "/x", *map(str, options), "--print-job"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return TrainJob.model_validate(yaml.safe_load(result.stdout))


def test_the_default_is_the_papers_table_4():
    """SAE-V, Table 4, but for the length, by which samples are left out and not cut."""
    for options in ((), ("--preset", "paper")):
        p = job("dpo", *options).parameters
        assert (p.max_length, p.batch_size, p.gradient_accumulation_steps) == (4096, 8, 4)
        assert (p.lr, p.lr_scheduler, p.lr_warm_up_steps, p.epochs) == (1e-6, "cosine", 10, 3)
        assert (p.validation_share, p.evaluate_every) == (0.1, 50)
        assert (p.freeze_vision_tower, p.lora_r) == (True, None)


def test_options_win_over_presets():
    demo = job("sft", "--preset", "demo", "--epochs", 2, "--train-vision-tower")
    assert (demo.method, demo.parameters.batch_size, demo.parameters.epochs) == ("sft", 16, 2)
    assert not demo.parameters.freeze_vision_tower
    p = job("dpo", "--lora-r", 4, "--lora-target", "q_proj, v_proj", "--beta", 0.3).parameters
    assert (p.lora_r, p.lora_target, p.beta) == (4, ("q_proj", "v_proj"), 0.3)
    assert job("sft", "--max-steps", 7, "--model", "org/m", "--dtype", "bfloat16").parameters.max_steps == 7


def test_what_makes_no_sense_is_one_line(tmp_path):
    for arguments, message in (
        (["sft", "--beta", "0.2"], "--beta: sft has no reference model"),
        (["sft", "--dtype", "float32"], "--dtype and --device go with --model"),
        (["dpo", "--lora-alpha", "8"], "--lora-r: LoRA's other options need its rank"),
        (["dpo"], "/d is not a selection"),
    ):
        method, *options = arguments
        command = ["train", method, "--data", "/d", "--output", str(tmp_path / "x"), *options]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, arguments
        assert result.stderr.count("\n") == 1
        assert message in result.stderr
    assert not (tmp_path / "x").exists()
