"""The model that is trained: loaded, frozen where it is not, and written as a folder that every verb takes."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curate.errors import ConfigurationError
from curate.manifest.atomic import sync_folder
from curate.models import FILES
from curate.models.family import ModelInfo
from curate.training.job import TrainPlan, TuningParameters

LANGUAGE_MODEL, VISION_TOWER = "language_model", "vision_tower"
_WRITTEN_ANEW = re.compile(r"config\.json|generation_config\.json|.*\.safetensors(\.index\.json)?")


def load(the_plan: TrainPlan, checkpoint: Path | None = None) -> Any:
    """The whole model: in float32 where it is trained itself, since bfloat16 would round small steps away.

    Args:
        checkpoint: whose weights it has, unless its adapters or parts of it are trained, which the trainer reads.

    Raises:
        ConfigurationError: weights are missing or damaged.
    """
    p, info = the_plan.job.parameters, the_plan.model
    if checkpoint is not None and p.lora_r is None and the_plan.job.strategy == "ddp":
        info = replace(info, path=checkpoint)
    # Of several workers each moves the model to its own device; one takes one GPU, however many there are.
    device = "cpu" if the_plan.job.workers > 1 or the_plan.device == "cpu" else "cuda:0"
    whole: Any = info.family.load_whole(info, the_plan.dtype if p.lora_r else torch.float32, device)
    if p.freeze_vision_tower:
        for name, parameter in whole.model.named_parameters():
            if VISION_TOWER in name.split("."):
                parameter.requires_grad_(False)
    return whole.model


def reference(the_plan: TrainPlan) -> Any:
    """The model as it was, for DPO; None where that is the trained one without its adapters."""
    if the_plan.job.method == "sft" or the_plan.job.parameters.lora_r:
        return None
    return load(the_plan).requires_grad_(False)


def lora(model: nn.Module, p: TuningParameters) -> Any:
    """PEFT's configuration of the adapters; None where the model itself is trained.

    Raises:
        ConfigurationError: a layer is named that there is not.
    """
    if p.lora_r is None:
        return None
    from peft import LoraConfig

    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if LANGUAGE_MODEL in name.split(".") and isinstance(module, nn.Linear)
    }
    if unknown := sorted(set(p.lora_target or ()) - linear):
        raise ConfigurationError(
            f"--lora-target {', '.join(unknown)}: the language model has {', '.join(sorted(linear))}"
        )
    names = "|".join(map(re.escape, p.lora_target or sorted(linear)))
    return LoraConfig(
        r=p.lora_r,
        lora_alpha=p.lora_alpha or 2 * p.lora_r,
        lora_dropout=p.lora_dropout,
        target_modules=rf"(.*\.)?{LANGUAGE_MODEL}\..*\.({names})",
        task_type="CAUSAL_LM",
    )


def save(model: Any, state: dict[str, Any], info: ModelInfo, folder: Path, adapter: Path | None) -> None:
    """Write the model with its base's processor, whole or not at all; adapters apart, too, and merged.

    Args:
        state: the weights, by name.
        adapter: the folder of the adapters, if there are any.
    """
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    if adapter is not None:
        model.save_pretrained(adapter, state_dict=state)
        model = model.merge_and_unload()
        state = model.state_dict()
    model.save_pretrained(temporary, state_dict=state)
    for file in sorted({file for pattern in FILES for file in info.path.glob(pattern)}):
        if not _WRITTEN_ANEW.fullmatch(file.name):
            shutil.copyfile(file, temporary / file.name)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync_folder(folder.parent)
