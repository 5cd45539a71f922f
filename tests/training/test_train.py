"""What trainings learn from, where they begin, how they go on, and what is in the way of one."""

import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference, DPOTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling, SFTTrainer

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.errors import ConfigurationError, DataError, RunStopped
from curate.manifest.selection import SELECTION
from curate.models.families import inspect_model
from curate.training.columns import as_columns, collator
from curate.training.fit import Step, new_trainer
from curate.training.folder import CHECKPOINTS, CURVE, MODEL, RECORD, WHOLE
from curate.training.plan import n_steps, plan
from curate.training.samples import TRAIN, VALIDATION, samples_of, write_samples
from tests.tensorboard import events
from tests.training.small import job, run_job, scored_run, selection, steps_until

ADAPTER_PARAMETERS = {"lora_r": 2, "max_steps": 2, "lora_target": ["q_proj", "v_proj"], "validation_share": 0}


def curve(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / CURVE).read_text().splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / MODEL / "model.safetensors")


def assert_same(output: Path, other: Path) -> None:
    one, two = weights(output), weights(other)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert curve(output) == curve(other)
    records = [json.loads((folder / RECORD).read_text()) for folder in (output, other)]
    for record in records:
        record.pop("seconds")
        record["job"].pop("output")
    assert records[0] == records[1]


@pytest.fixture(scope="module")
def frozen():
    """The demo's model by plain transformers."""
    return transformers.LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL, dtype=torch.float32).eval()


def written(the_job) -> tuple:
    """A plan whose samples are written, and its folder."""
    the_plan, output = plan(the_job), Path(the_job.output)
    output.mkdir(parents=True)
    write_samples(the_plan, output, lambda done: None)
    return the_plan, output


def examples_of(the_plan, output, n=5):
    return list(as_columns(the_plan.dataset, samples_of(output, TRAIN), the_plan.job.method).take(n))


def by_processor(sample, response: str) -> tuple[dict, int]:
    """What transformers' own processor makes of a conversation, and how many tokens its prompt has."""
    processor = transformers.LlavaNextProcessor.from_pretrained(demo.MODEL, backend="pil")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample["prompt"]}]}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": response}]}
    texts = [processor.apply_chat_template(said) for said in (turns, [*turns, answer])]
    images = [sample["images"][0]]
    prompt, whole = (processor(text=[text], images=images, return_tensors="pt") for text in texts)
    return whole, prompt["input_ids"].shape[1]


def log_probability(model, whole, n_prompt: int) -> float:
    with torch.no_grad():
        logits = model(**whole).logits[0, n_prompt - 1 : -1]
    return -float(cross_entropy(logits, whole["input_ids"][0, n_prompt:], reduction="sum"))


def test_the_reference_says_what_the_frozen_model_says(half, tmp_path, frozen):
    the_plan, output = written(job(half, tmp_path / "x", "dpo"))
    examples = examples_of(the_plan, output)
    trainer = new_trainer(the_plan, output)
    batch = trainer.data_collator(examples)
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
    for name, found in (("chosen", chosen), ("rejected", rejected)):
        expected = [log_probability(frozen, *by_processor(example, example[name])) for example in examples]
        assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_dpo_begins_at_ln_2_and_its_reference_stays(tuned):
    assert_begins_at_ln_2(tuned)
    assert abs(curve(tuned)[-2]["rewards/margins"]) > 1e-3


def assert_begins_at_ln_2(output: Path) -> None:
    first = curve(output)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_sft_begins_at_the_cross_entropy_of_the_completions_alone(half, tmp_path, frozen):
    the_plan, output = written(job(half, tmp_path / "x", "sft"))
    examples = examples_of(the_plan, output)
    trainer = new_trainer(the_plan, output)
    batch = trainer.data_collator(examples)
    labels = batch["labels"]
    image = transformers.AutoConfig.from_pretrained(demo.MODEL).image_token_id
    assert image in batch["input_ids"]
    assert image not in labels
    whole = [by_processor(example, example["completion"]) for example in examples]
    n_tokens = sum(inputs["input_ids"].shape[1] - n_prompt for inputs, n_prompt in whole)
    assert int((labels >= 0).sum()) == n_tokens
    expected = -sum(log_probability(frozen, *each) for each in whole) / n_tokens
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_batches_are_those_of_trls_own_collators(half, tmp_path, method):
    """But for the BOS, which theirs leave out, where prompt and response are tokenized alike apart and together."""
    the_plan, output = written(job(half, tmp_path / "x", method))
    processor = transformers.LlavaNextProcessor.from_pretrained(demo.MODEL, backend="pil")
    theirs = {
        "sft": DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True),
        "dpo": DataCollatorForVisionPreference(processor),
    }[method]
    examples = examples_of(the_plan, output)
    ours = collator(the_plan.model.family.load_builder(the_plan.model), the_plan.job.method)(examples)
    for example in examples:
        example["prompt"] = [{"role": "user", "content": example["prompt"]}]
        for name in {"completion", "chosen", "rejected"} & example.keys():
            example[name] = [{"role": "assistant", "content": example[name]}]
    expected = theirs(examples)
    bos = the_plan.model.family.load_builder(the_plan.model).bos_token_id
    real, theirs_real = (batch["attention_mask"] == 1 for batch in (ours, expected))
    assert real.sum(1).tolist() == (theirs_real.sum(1) + 1).tolist()
    for row, (mine, other) in enumerate(zip(real, theirs_real, strict=True)):
        first, *rest = ours["input_ids"][row][mine].tolist()
        assert (first, rest) == (bos, expected["input_ids"][row][other].tolist())
        for name in {"labels", "completion_mask"} & expected.keys():
            assert ours[name][row][mine].tolist()[1:] == expected[name][row][other].tolist(), name


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_half_is_trained_on_exactly_its_samples(half, tmp_path, monkeypatch, demo_builder, method):
    """Told from the batches that reach the model; those of DPO have chosen and rejected responses."""
    seen: dict[str, set] = {"train": set(), "eval": set()}

    def keys(batch) -> set:
        found = set()
        n_tiles = len(batch["pixel_values"]) // len(batch["image_sizes"])
        for row, mask in enumerate(batch["attention_mask"]):
            pixels = batch["pixel_values"][row * n_tiles : (row + 1) * n_tiles]
            found.add((tuple(batch["input_ids"][row][mask == 1].tolist()), float(pixels.double().sum())))
        return found

    trainer = {"sft": SFTTrainer, "dpo": DPOTrainer}[method]
    before = trainer.compute_loss

    def recorded(self, model, inputs, *args, **options):
        seen["train" if model.training else "eval"].update(keys(inputs))
        return before(self, model, inputs, *args, **options)

    monkeypatch.setattr(trainer, "compute_loss", recorded)
    # One picture a batch, so that the tiles of a batch are those of its picture.
    parameters = {"batch_size": 1, "gradient_accumulation_steps": 4, "validation_share": 0.25}
    record = run_job(job(half, tmp_path / "x", method, parameters=parameters))
    dataset = open_dataset(DatasetSpec(limit=24))
    expected: dict[str, set] = {}
    for part in (TRAIN, VALIDATION):
        rows = samples_of(tmp_path / "x", part)
        samples = [sample for _, sample in dataset.samples(rows["source_row"].to_pylist())]
        assert [sample.sample_id for sample in samples] == rows["sample_id"].to_pylist()
        inputs = [
            demo_builder.build(sample.image, sample.question, response)
            for sample in samples
            for response in ([sample.chosen] if method == "sft" else [sample.chosen, sample.rejected])
        ]
        expected[part] = {
            (tuple(each.input_ids.tolist()), float(each.tensors["pixel_values"].double().sum())) for each in inputs
        }
    assert seen == {"train": expected[TRAIN], "eval": expected[VALIDATION]}
    texts = 1 if method == "sft" else 2
    assert (record.n_train, record.n_validation) == (9, 3)
    assert (len(seen["train"]), len(seen["eval"])) == (9 * texts, 3 * texts)
    assert record.steps == n_steps(job(half, tmp_path, parameters=parameters).parameters, 1, 9) == 3
    ids = {part: set(samples_of(tmp_path / "x", part)["sample_id"].to_pylist()) for part in (TRAIN, VALIDATION)}
    selected = set(pq.read_table(half / "selection.parquet")["sample_id"].to_pylist())
    assert ids[TRAIN] | ids[VALIDATION] == selected
    assert not ids[TRAIN] & ids[VALIDATION]
    listed = "".join(f"{sample_id}\n" for sample_id in sorted(ids[TRAIN]))
    assert record.train_sha256 == hashlib.sha256(listed.encode()).hexdigest()
    for name, file in (("run_hash", half.parent.parent / "manifest.parquet"), ("selection_sha256", half / SELECTION)):
        assert getattr(record, name) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_model_loads_everywhere_and_its_tower_is_the_bases(tuned):
    base, found = load_file(demo.MODEL / "model.safetensors"), weights(tuned)
    assert found.keys() == base.keys()
    for name in base:
        same = torch.equal(found[name], base[name].float())
        assert same == ("vision_tower" in name), name
    info = inspect_model(str(tuned / MODEL))
    info.family.load_whole(info, torch.float32, "cpu")
    info.family.load_builder(info)
    _, report = transformers.LlavaNextForConditionalGeneration.from_pretrained(tuned / MODEL, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    record = json.loads((tuned / RECORD).read_text())
    assert record["model_sha256"] == info.sha256
    assert record["base_sha256"] == inspect_model(str(demo.MODEL)).sha256
    assert not (tuned / CHECKPOINTS).exists()


def test_the_curve_is_drawn_and_on_tensorboard(tuned):
    logged = {
        (event.step, value.tag): value.simple_value
        for event in events(tuned / "tensorboard")
        for value in event.summary.value
    }
    lines = curve(tuned)
    assert any("rewards/margins" in line for line in lines)
    assert any("eval_rewards/accuracies" in line for line in lines)
    for line in lines:
        for name, value in line.items():
            if name != "step":
                assert logged[line["step"], name] == pytest.approx(value, rel=1e-6)
    assert (tuned / "curve.png").stat().st_size > 10_000


def test_less_memory_and_other_processes_that_read_change_no_result(half, tmp_path, tuned):
    thrifty = {"gradient_checkpointing": True, "loader_workers": 1}
    assert (record := run_job(job(half, tmp_path, "dpo", parameters=thrifty))).steps == 3
    assert record.figures["loss"] == pytest.approx(curve(tuned)[-2]["loss"], abs=1e-5)
    for name, one in weights(tuned).items():
        assert torch.allclose(one, weights(tmp_path)[name], atol=1e-5), name


def test_dropout_of_adapters_is_there_in_dpo_too(half, tmp_path):
    the_plan, output = written(job(half, tmp_path / "x", "dpo", parameters={**ADAPTER_PARAMETERS, "lora_dropout": 0.5}))
    modules = dict(new_trainer(the_plan, output).model.named_modules())
    dropout = [module for name, module in modules.items() if isinstance(module, torch.nn.Dropout) and "lora" in name]
    assert {module.p for module in dropout} == {0.5}


def test_samples_that_fill_up_a_batch_twice_are_read_once(tmp_path):
    """As several workers ask for them; lines are read in their order."""
    from tests.pipeline.small import write_data

    data = write_data(tmp_path / "data") / "data.jsonl"
    good = [line for line in data.read_text().splitlines() if json.loads(line)["image"] and "no-such" not in line]
    data.write_text("\n".join(good) + "\n")
    chosen = selection(scored_run(tmp_path / "run", DatasetSpec(name=str(data))), "1")
    the_plan, output = written(job(chosen, tmp_path / "x"))
    columns = as_columns(the_plan.dataset, samples_of(output, TRAIN), "sft")
    again = columns[[2, 0, 2]]
    assert again["completion"] == [columns[place]["completion"] for place in (2, 0, 2)]


@pytest.fixture(scope="module")
def adapted(half, tmp_path_factory) -> Path:
    """An undisturbed training of adapters."""
    output = tmp_path_factory.mktemp("adapted")
    run_job(job(half, output, "dpo", parameters=ADAPTER_PARAMETERS))
    return output


@pytest.mark.slow
def test_an_adapter_is_written_apart_and_merged(adapted):
    from peft import PeftModel

    assert_begins_at_ln_2(adapted)
    base, found = load_file(demo.MODEL / "model.safetensors"), weights(adapted)
    assert found.keys() == base.keys()
    changed = {name.split(".")[-2] for name in base if not torch.equal(found[name], base[name].float())}
    assert changed == {"q_proj", "v_proj"}
    again = transformers.LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL, dtype=torch.float32)
    merged = PeftModel.from_pretrained(again, adapted / "adapter").merge_and_unload()
    tuned = transformers.LlavaNextForConditionalGeneration.from_pretrained(adapted / MODEL, dtype=torch.float32)
    for (name, one), two in zip(merged.named_parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6), name


def test_a_training_that_is_killed_ends_with_the_same_weights(half, tmp_path, tuned):
    """SIGKILL to a real process, between any two instructions after its first checkpoint."""
    output, rng, steps = tmp_path / "dpo", random.Random(5), []
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(job(half, output, "dpo").model_dump(mode="json", exclude_none=True)))
    while not output.exists() or (output / RECORD).exists():  # anew where it ended before the signal came
        shutil.rmtree(output, ignore_errors=True)
        process = subprocess.Popen([sys.executable, "-m", "curate", "run", str(file)], stderr=subprocess.DEVNULL)
        while process.poll() is None and not (output / CHECKPOINTS / "checkpoint-2" / WHOLE).exists():
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL)
    whole = [int(path.parent.name.removeprefix("checkpoint-")) for path in output.glob(f"{CHECKPOINTS}/*/{WHOLE}")]
    run_job(job(half, output, "dpo"), report=steps.append)
    assert steps[0] == Step(max(whole), 3)
    assert_same(output, tuned)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_of_the_very_step_and_half_a_checkpoint_is_none(
    half, tmp_path, tuned, adapted, lora
):
    output, parameters, steps = tmp_path / "dpo", ADAPTER_PARAMETERS if lora else {}, []
    the_job = job(half, output, "dpo", parameters=parameters)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 1; the same command"):
        run_job(the_job, report=steps_until(1, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert [path.name for path in (output / CHECKPOINTS).glob("checkpoint-*")] == ["checkpoint-1"]
    half_written = output / CHECKPOINTS / "checkpoint-2"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half")
    run_job(the_job, report=steps.append)
    assert steps[0].done == 1
    assert_same(output, adapted if lora else tuned)


def test_a_training_cut_off_after_its_last_step_writes_the_model_then(half, tmp_path, tuned, monkeypatch):
    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("curate.training.fit.save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_job(job(half, tmp_path, "dpo"))
    run_job(job(half, tmp_path, "dpo"))
    assert_same(tmp_path, tuned)


def test_what_is_done_is_not_done_again_and_another_training_is_refused_by_name(half, tmp_path, tuned):
    steps = []
    before = (tuned / RECORD).read_text()
    assert run_job(job(half, tuned, "dpo"), report=steps.append).model_dump_json(indent=2) + "\n" == before
    assert not steps
    with pytest.raises(ConfigurationError, match=r"another beta 0.1 ≠ 0.2; choose another folder, or --overwrite"):
        run_job(job(half, tuned, "dpo", parameters={"beta": 0.2}))
    with pytest.raises(ConfigurationError, match=r'another method "dpo" ≠ "sft"'):
        run_job(job(half, tuned, "sft"))
    third = selection(half.parent.parent, "0.75")
    with pytest.raises(ConfigurationError, match='another selection "'):
        run_job(job(third, tuned, "dpo"))


def test_a_folder_with_something_else_is_refused_before_anything_is_removed(half, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("theirs")
    with pytest.raises(ConfigurationError, match=r"holds thesis.txt, which is no training's"):
        run_job(job(half, tmp_path), overwrite=True)
    assert (tmp_path / "model" / "config.json").read_text() == "theirs"
    (tmp_path / "thesis.txt").unlink()
    with pytest.raises(ConfigurationError, match="holds a model already; --overwrite replaces it"):
        run_job(job(half, tmp_path))
    assert (tmp_path / "model" / "config.json").read_text() == "theirs"


def test_samples_that_do_not_fit_are_left_out_with_their_reason(half, tmp_path, demo_builder):
    rows = pq.read_table(half / "selection.parquet")["source_row"].to_pylist()
    dataset = open_dataset(DatasetSpec(limit=24))
    lengths = {}
    for row, sample in dataset.samples(sorted(rows)):
        both = (sample.chosen, sample.rejected)
        lengths[row] = max(len(demo_builder.build(sample.image, sample.question, text).input_ids) for text in both)
    limit = sorted(lengths.values())[-4]
    expected = sorted(row for row, n_tokens in lengths.items() if n_tokens > limit)
    assert expected
    _, output = written(job(half, tmp_path / "x", "dpo", parameters={"max_length": limit}))
    found = pq.read_table(output / "quarantine.parquet").to_pylist()
    assert [row["source_row"] for row in found] == expected
    assert {row["error"] for row in found} == {"TooLong"}
    assert f"the training takes {limit}" in found[0]["reason"]
    parts = pq.read_table(output / "samples.parquet")
    assert sorted(parts.filter(parts["part"].to_numpy() == "left out")["source_row"].to_pylist()) == expected
    assert parts.num_rows == len(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"batch_size": 30}}, "11 of them to train on, and a step takes 60"),
        ({"parameters": {"validation_share": 0.001}}, "of 12 samples none is left to validate on"),
        ({"parameters": {"max_length": 20}}, r"--max-length 20: the image of row \d+ alone makes \d+ tokens"),
        ({"model": {"name": "no/such/model"}}, "no such folder"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weights_are_loaded(half, tmp_path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        plan(job(half, tmp_path / "x", **changes))
    assert not (tmp_path / "x").exists()


def test_models_that_trl_does_not_train_and_devices_without_bfloat16_are_refused(half, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    with pytest.raises(ConfigurationError, match="Old GPU has no bfloat16: take --dtype float32"):
        plan(job(half, tmp_path / "x", model={"name": "demo"}))
    monkeypatch.setattr("curate.training.plan.FAMILIES", ("other",))
    with pytest.raises(ConfigurationError, match="--model demo: its type is llava_next; curate trains other"):
        plan(job(half, tmp_path / "x"))


def test_a_full_disk_is_foreseen(half, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(ConfigurationError, match=r"0.0 GB are free there, and the model with its checkpoints takes"):
        plan(job(half, tmp_path / "x"))


def test_data_that_were_changed_since_they_were_scored_are_refused(tmp_path):
    from tests.pipeline.small import write_data

    data = write_data(tmp_path / "data")
    lines = (data / "data.jsonl").read_text().splitlines()
    good = [line for line in lines if json.loads(line)["image"] and "no-such" not in line]
    (data / "data.jsonl").write_text("\n".join(good) + "\n")
    chosen = selection(scored_run(tmp_path / "run", DatasetSpec(name=str(data / "data.jsonl"))), "1")
    row = json.loads(good[9])
    (data / "data.jsonl").write_text("\n".join([*good[:9], json.dumps({**row, "chosen": "Other."}), *good[10:]]) + "\n")
    with pytest.raises(DataError, match=r"row 9 of .* was changed since it was scored"):
        run_job(job(chosen, tmp_path / "x"))
    (data / "data.jsonl").write_text("\n".join(good[:20]) + "\n")
    with pytest.raises(DataError, match="which has no such row any more"):
        plan(job(chosen, tmp_path / "y"))


def test_a_training_that_diverges_ends_and_writes_no_model(half, tmp_path):
    with pytest.raises(RunStopped, match="is NaN or infinite: begin anew with a lower --lr"):
        run_job(job(half, tmp_path, parameters={"lr": 1e30}))
    assert not (tmp_path / MODEL).exists()
    assert "NaN" not in (tmp_path / CURVE).read_text()
