"""Chameleon is trained as the other families are: on responses alone, with its VQ encoder as it was."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from curate.errors import ConfigurationError
from curate.models.families import inspect_model
from curate.training.fit import new_trainer
from curate.training.folder import CURVE, MODEL
from curate.training.plan import plan
from curate.training.samples import TRAIN, samples_of, write_samples
from tests.models.small import picture, write_chameleon
from tests.training.small import job, run_job, steps_until

ADAPTERS = {"lora_r": 2, "max_steps": 1, "validation_share": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_chameleon(tmp_path_factory.mktemp("chameleon"), swin_norm=False)


def chameleon_job(half: Path, base: Path, output: Path, method: str, **changes):
    return job(half, output, method, model={"name": str(base), "device": "cpu"}, **changes)


@pytest.fixture(scope="module")
def tuned(half, base, tmp_path_factory) -> Path:
    """An undisturbed DPO training."""
    output = tmp_path_factory.mktemp("tuned-chameleon") / "dpo"
    run_job(chameleon_job(half, base, output, "dpo"))
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def curve(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / CURVE).read_text().splitlines()]


def test_the_model_loads_everywhere_and_its_vq_encoder_is_the_bases(base, tuned):
    before, after = weights(base), weights(tuned / MODEL)
    assert after.keys() == before.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == ("vqmodel" in name), name
    info = inspect_model(str(tuned / MODEL))
    builder = info.family.load_builder(info)
    whole = info.family.load_whole(info, torch.float32, "cpu")
    prompts = [builder.build_prompt(picture(50, 40, seed), "What?") for seed in range(2)]
    together = whole.generate(prompts, 4)
    assert [ids.tolist() for ids in together] == [whole.generate([each], 4)[0].tolist() for each in prompts]


def test_dpo_begins_at_ln_2(tuned):
    first, *_, last = curve(tuned)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert last["step"] == 3


def test_sft_begins_at_the_cross_entropy_of_responses_as_chameleon_itself_has_it(half, base, tmp_path):
    """After the codes of their own image, and with no code of an image among what could be said."""
    the_plan = plan(chameleon_job(half, base, tmp_path, "sft"))
    write_samples(the_plan, tmp_path, lambda done: None)
    trainer = new_trainer(the_plan, tmp_path)
    rows = samples_of(tmp_path, TRAIN)["position"].to_pylist()[:3]
    info = the_plan.model
    builder, model = info.family.load_builder(info), info.family.load_whole(info, torch.float32, "cpu")
    examples, losses = [], []
    for _, sample in the_plan.dataset.samples(rows):
        examples.append({"images": [sample.image], "prompt": sample.question, "completion": sample.chosen})
        inputs = builder.build(sample.image, sample.question, sample.chosen)
        said = inputs.input_ids[-inputs.n_response :]
        losses.append(cross_entropy(model.logits(inputs)[-inputs.n_response - 1 : -1], said, reduction="none"))
    found = trainer.compute_loss(trainer.model, dict(trainer.data_collator(examples)))
    assert found.item() == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)


def test_adapters_lie_in_the_blocks_alone_and_are_merged(half, base, tmp_path):
    run_job(chameleon_job(half, base, tmp_path, "dpo", parameters=ADAPTERS))
    before, after = weights(base), weights(tmp_path / MODEL)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-2] for name in changed} == projections
    assert all(name.startswith("model.layers.") for name in changed)
    _, report = transformers.ChameleonForConditionalGeneration.from_pretrained(
        tmp_path / MODEL, output_loading_info=True
    )
    assert not report["missing_keys"]


def test_a_training_that_is_stopped_ends_with_the_same_weights(half, base, tmp_path, tuned):
    the_job = chameleon_job(half, base, tmp_path, "dpo")
    with pytest.raises(KeyboardInterrupt):
        run_job(the_job, steps_until(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    run_job(the_job)
    one, other = weights(tuned / MODEL), weights(tmp_path / MODEL)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_workers_that_share_one_model_learn_as_two_with_a_whole_one_each(half, base, tmp_path):
    """Each holds half of the head and of its bias."""
    parameters = {"batch_size": 1, "max_steps": 2, "validation_share": 0, "gradient_checkpointing": True}
    for strategy in ("ddp", "fsdp"):
        output = tmp_path / strategy
        run_job(chameleon_job(half, base, output, "dpo", parameters=parameters, workers=2, strategy=strategy))
    one, other = weights(tmp_path / "ddp" / MODEL), weights(tmp_path / "fsdp" / MODEL)
    assert one.keys() == other.keys() == weights(base).keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_a_vq_encoder_is_not_trained(half, base, tmp_path):
    with pytest.raises(ConfigurationError, match="--train-vision-tower: Chameleon's VQ encoder rounds images"):
        plan(chameleon_job(half, base, tmp_path, "sft", parameters={"freeze_vision_tower": False}))
