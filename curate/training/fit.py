"""TRL's trainers on a plan's samples, with curves, checkpoints and signals: what each process of a training does."""

import json
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensorboardX import SummaryWriter
from transformers import AutoProcessor, PrinterCallback, TrainerCallback
from transformers.utils import logging

from curate.errors import RunStopped
from curate.harvest.train import signals_between_steps, take_back
from curate.training.columns import as_columns, collator
from curate.training.folder import ADAPTER, CHECKPOINTS, CURVE, MODEL, TENSORBOARD, last_checkpoint, mark_whole, step_of
from curate.training.model import load, lora, reference, save
from curate.training.plan import TrainPlan
from curate.training.samples import TRAIN, VALIDATION, samples_of

# Of what trainers log: how fast they were, and counts that begin anew when a training is resumed.
_NO_FIGURES = ("runtime", "per_second", "total_flos", "num_tokens", "train_loss")


class Step(NamedTuple):
    """How far a training is: its stage is `samples`, while they are read, or `train`, in steps."""

    done: int
    total: int
    stage: str = "train"


Report = Callable[[Step], None]


def fit(the_plan: TrainPlan, output: Path, report: Report) -> list[type[KeyboardInterrupt]]:
    """Train from the last checkpoint to the last step and write the model; the folder's samples are written already.

    Returns:
        the signal that came when the last step was done, if one did.

    Raises:
        RunStopped: the loss is no number.
        KeyboardInterrupt: a signal came before; a checkpoint is saved.
    """
    before = last_checkpoint(output)
    done = 0 if before is None else step_of(before)
    with ExitStack() as stack:
        stop = stack.enter_context(signals_between_steps())
        trainer = new_trainer(the_plan, output, before)
        logging.disable_progress_bar()  # which to load a model switches on
        stack.callback(logging.enable_progress_bar)
        if trainer.is_world_process_zero():
            take_back(output / CURVE, done)
            board = stack.enter_context(SummaryWriter(str(output / TENSORBOARD), purge_step=done + 1))
            trainer.add_callback(_Curve(output / CURVE, board))
        trainer.add_callback(_Steps(report, stop))
        trainer.train(resume_from_checkpoint=None if before is None else str(before))
        state = trainer.state
        if stop and state.global_step < state.max_steps:
            raise stop[0](
                f"stopped at step {state.global_step:,}; the same command, without --overwrite, goes on from there"
            )
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.is_world_process_zero():
            adapter = output / ADAPTER if the_plan.job.parameters.lora_r else None
            save(trainer.accelerator.unwrap_model(trainer.model), weights, the_plan.model, output / MODEL, adapter)
        return stop


def _has_adapters(model: Any) -> bool:
    """Whether adapters are trained."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def new_trainer(the_plan: TrainPlan, output: Path, checkpoint: Path | None = None) -> Any:
    """TRL's trainer of the plan's method, on the samples that the folder names, with a checkpoint's weights."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    job, p = the_plan.job, the_plan.job.parameters
    train, validation = (
        as_columns(the_plan.dataset, samples_of(output, part), job.method) for part in (TRAIN, VALIDATION)
    )
    settings: dict[str, Any] = {
        "output_dir": str(output / CHECKPOINTS),
        "per_device_train_batch_size": p.batch_size,
        "per_device_eval_batch_size": p.batch_size,
        "gradient_accumulation_steps": p.gradient_accumulation_steps,
        "learning_rate": p.lr,
        "lr_scheduler_type": p.lr_scheduler,
        "warmup_steps": p.lr_warm_up_steps,
        "num_train_epochs": p.epochs,
        "max_steps": p.max_steps or -1,
        "weight_decay": p.weight_decay,
        "use_cpu": the_plan.device == "cpu",
        "bf16": the_plan.dtype == torch.bfloat16,
        "gradient_checkpointing": p.gradient_checkpointing,
        "seed": p.seed,
        "dataloader_num_workers": p.loader_workers,
        "eval_strategy": "steps" if len(validation) else "no",
        "eval_steps": p.evaluate_every,
        "save_steps": p.checkpoint_every,
        # The older one stays until the newer is marked as whole, which is after transformers has thinned them out.
        "save_total_limit": 2,
        # Each step's, so that what is resumed logs what the undisturbed training does.
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "remove_unused_columns": False,
        # Images cannot be cut; what is too long was left out.
        "max_length": None,
        **_distributed(the_plan),
    }
    model = load(the_plan, checkpoint)
    common = {
        "model": model,
        "train_dataset": train,
        "eval_dataset": validation if len(validation) else None,
        "processing_class": AutoProcessor.from_pretrained(the_plan.model.path, backend="pil", local_files_only=True),
        "data_collator": collator(the_plan.model.family.load_builder(the_plan.model), job.method),
        "peft_config": lora(model, p),
    }
    if job.method == "sft":
        trainer = _mended(SFTTrainer)(args=_configured(SFTConfig, settings), **common)
    else:
        # By itself TRL turns off all dropout in DPO, LoRA's too.
        settings |= {"beta": p.beta, "disable_dropout": not p.lora_dropout}
        trainer = _mended(DPOTrainer)(args=_configured(DPOConfig, settings), ref_model=reference(the_plan), **common)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _configured(kind: type, settings: Mapping[str, Any]) -> Any:
    """TRL's settings, with which one process uses one GPU: transformers would put batches on all that it sees."""
    with warnings.catch_warnings():
        # TRL knows gradient checkpointing, on by default, by the name alone that newer transformers warn of.
        warnings.simplefilter("ignore", FutureWarning)
        configured = kind(**settings)
    configured._n_gpu = min(configured.n_gpu, 1)
    return configured


def _distributed(the_plan: TrainPlan) -> dict[str, Any]:
    """Settings of several workers, whose process group stands already."""
    if the_plan.job.workers == 1:
        return {}
    settings: dict[str, Any] = {"ddp_backend": "nccl" if the_plan.device == "cuda" else "gloo"}
    if the_plan.job.strategy == "fsdp":
        settings |= {"fsdp": "full_shard auto_wrap", "fsdp_config": {"fsdp_version": 2}}
    return settings


def _mended(trainer: type) -> Any:
    """The trainer without TRL's report of its use to Hugging Face, which reads no weights that `load` has read.

    transformers writes a vision-language model's weights under the names that they have on the hub; its trainer reads
    them by the names that they have in memory, and passes over all that it does not find.
    """

    def load_from_checkpoint(self: Any, folder: str, model: Any = None) -> None:
        target = self.model if model is None else model
        if self.is_fsdp_enabled or _has_adapters(target):
            trainer._load_from_checkpoint(self, folder, model)  # type: ignore[attr-defined]

    methods = {"_send_telemetry": lambda self: None, "_load_from_checkpoint": load_from_checkpoint}
    return type(trainer.__name__, (trainer,), methods)


class _Curve(TrainerCallback):
    """Every step's figures in a file and on TensorBoard."""

    def __init__(self, file: Path, board: SummaryWriter) -> None:
        self.file, self.board = file, board

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        figures = {name: float(value) for name, value in logs.items() if not name.endswith(_NO_FIGURES)}
        if not any(name.endswith("loss") for name in figures):
            return
        if not all(math.isfinite(value) for name, value in figures.items() if name.endswith("loss")):
            raise RunStopped(
                f"the loss at step {state.global_step:,} is NaN or infinite: begin anew with a lower --lr or a longer "
                "--lr-warm-up-steps"
            )
        with self.file.open("a", encoding="utf-8") as curve:
            curve.write(json.dumps({"step": state.global_step, **figures}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(name, value, state.global_step)
        self.board.flush()


class _Steps(TrainerCallback):
    """Reports steps, validates after the last, marks checkpoints as whole, and stops between steps."""

    def __init__(self, report: Report, stop: list[type[KeyboardInterrupt]]) -> None:
        self.report, self.stop = report, stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report(Step(state.global_step, state.max_steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report(Step(state.global_step, state.max_steps))
        if state.global_step >= state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            # The model itself is written now; from a checkpoint of the last step a trainer would do one step more.
            control.should_save = False
        elif self.stop:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")
