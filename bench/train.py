"""What a step of `curate train` costs beside a bare step: forward, backward, AdamW, on batches that are ready.

`python -m bench.train` prints, for SFT and for DPO, seconds a step, tokens a second and, on a GPU, peak memory: medians
over rounds in which both ways are timed in turn. On a CPU the model is the random LLaVA-NeXT of `bench.llava`; on a GPU
it has the very config of LLaVA-NeXT-Mistral-7B with random weights, and trains LoRA adapters.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bench.llava import write_model, write_real_model, write_samples
from curate.datasets import DatasetSpec, open_dataset
from curate.models import ModelSpec
from curate.models.families import inspect_model
from curate.training.fit import new_trainer
from curate.training.job import Method, TrainJob, TuningParameters
from curate.training.plan import TrainPlan
from curate.training.samples import write_samples as write_parts

ROUNDS, STEPS, BATCH_SIZE, LORA_R = 3, 3, 2, 16


def main() -> None:
    """Print the table."""
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (write_real_model if on_gpu else write_model)(folder / "model")
        write_samples(folder / "data" / "samples.parquet", BATCH_SIZE * (STEPS + 1))
        print(f"{torch.cuda.get_device_name() if on_gpu else 'CPU'}: {STEPS} steps of {BATCH_SIZE}, {ROUNDS} rounds")
        methods: tuple[Method, ...] = ("sft", "dpo")
        for method in methods:
            _compare(_plan(folder, method, on_gpu), folder, method)


def _plan(folder: Path, method: Method, on_gpu: bool) -> TrainPlan:
    """All rows as a selection would name them."""
    dataset = open_dataset(DatasetSpec(name=str(folder / "data")))
    found = list(dataset.sample_ids(range(len(dataset))))
    rows = pa.table({"sample_id": [str(each) for _, each in found], "source_row": [row for row, _ in found]})
    parameters = TuningParameters(
        batch_size=BATCH_SIZE,
        gradient_accumulation_steps=1,
        max_steps=STEPS + 1,
        validation_share=0,
        lr_warm_up_steps=0,
        lora_r=LORA_R if on_gpu else None,
    )
    model = inspect_model(str(folder / "model"))
    job = TrainJob(
        method=method,
        data="",
        model=ModelSpec(name=model.name),
        output=str(folder / method),
        parameters=parameters,
    )
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    unread: Any = None  # a trainer asks the selection nothing
    return TrainPlan(job, unread, rows, dataset, tuple(range(len(dataset))), model, device, dtype)


def _compare(plan: TrainPlan, folder: Path, method: Method) -> None:
    output = Path(plan.job.output)
    output.mkdir()
    write_parts(plan, output, lambda done: None)
    times: dict[str, list[float]] = {"bare step": [], "curate train": []}
    tokens = 0
    for _ in range(ROUNDS):
        trainer = new_trainer(plan, output)
        batches = list(islice(trainer.get_train_dataloader(), STEPS))
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches) // STEPS
        times["bare step"].append(_bare(trainer, batches, method, plan.dtype))
        del trainer
        times["curate train"].append(_ours(new_trainer(plan, output)))
    ratios = [one / other for one, other in zip(times["bare step"], times["curate train"], strict=True)]
    for name, seconds in times.items():
        each = statistics.median(seconds)
        spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"{method} {name:13} {each:7.2f} s a step {spread} {tokens / each:9,.0f} tokens/s")
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    memory = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if plan.device == "cuda" else ""
    print(f"{method} ratio, round by round: {statistics.median(ratios):.2f} {spread}{memory}")


def _ours(trainer: Any) -> float:
    """Seconds a step, without the first, of a whole `train`."""
    at: list[float] = []
    step = trainer.training_step

    def timed(*arguments: Any, **options: Any) -> Any:
        _wait()
        at.append(time.monotonic())
        return step(*arguments, **options)

    trainer.training_step = timed
    trainer.train()
    return (at[-1] - at[0]) / STEPS


def _bare(trainer: Any, batches: list[dict[str, Tensor]], method: Method, dtype: torch.dtype) -> float:
    model, reference = trainer.model, getattr(trainer, "ref_model", None)
    model.train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-6)
    seconds = []
    for batch in _repeated(batches):
        _wait()
        begun = time.monotonic()
        with torch.autocast(trainer.args.device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = _dpo_loss(model, reference, dict(batch)) if method == "dpo" else model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _wait()
        seconds.append(time.monotonic() - begun)
    return statistics.mean(seconds[1:])


def _repeated(batches: list[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    yield batches[-1]  # to warm up
    yield from batches


def _dpo_loss(model: Any, reference: Any, batch: dict[str, Tensor]) -> Tensor:
    completion = batch.pop("completion_mask")[:, 1:]

    def log_probability(of: Any) -> Tensor:
        logits = of(**batch).logits[:, :-1]
        chosen = logits.float().log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return (chosen * completion).sum(1)

    with torch.no_grad():
        if reference is None:
            with model.disable_adapter():
                before = log_probability(model)
        else:
            before = log_probability(reference)
    chosen, rejected = (log_probability(model) - before).chunk(2)
    return -logsigmoid(0.1 * (chosen - rejected)).mean()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
