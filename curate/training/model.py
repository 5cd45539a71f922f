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
from curate.storage import follow_umask
from curate.training.job import TuningParameters
from curate.training.plan import TrainPlan

# Chameleon's VQ encoder rounds images to codes: no gradient comes back through it.
VISION_TOWERS = {"vision_tower", "vqmodel"}
_BIAS = "lm_head.bias"
_NEVER = -1e4  # a logit that leaves no probability, and is finite in every precision
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
            if VISION_TOWERS & set(name.split(".")):
                parameter.requires_grad_(False)
    if info.family.model_type == "chameleon":
        rule_out_image_codes(whole.model)
    return whole.model


def rule_out_image_codes(model: Any) -> None:
    """Give the head a frozen bias by which no image code is said, as Chameleon's own forward pass has it.

    TRL's trainers multiply with the head's weights themselves, past what that pass does to the logits. `save` leaves
    the bias out.
    """
    head, codes = model.lm_head, model.model.vocabulary_mapping.image_tokens
    bias = torch.zeros_like(head.weight[:, 0])
    bias[codes] = _NEVER
    head.bias = nn.Parameter(bias, requires_grad=False)


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

    blocks = f"{language_model(model)}.layers."
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if name.startswith(blocks) and isinstance(module, nn.Linear)
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
        target_modules=rf"{re.escape(blocks)}.*\.({names})",
        task_type="CAUSAL_LM",
    )


def language_model(model: Any) -> str:
    """The name of the module that holds the decoder's blocks; in Chameleon it holds the VQ encoder, too."""
    decoder = getattr(model.base_model, "language_model", model.base_model)
    return next(name for name, module in model.named_modules() if module is decoder)


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
        follow_umask(Path(adapter))
        model = model.merge_and_unload()
        state = model.state_dict()
    if info.family.model_type == "chameleon":
        state = {name: tensor for name, tensor in state.items() if name != _BIAS}
    model.save_pretrained(temporary, state_dict=state)
    for file in sorted({file for pattern in FILES for file in info.path.glob(pattern)}):
        if not _WRITTEN_ANEW.fullmatch(file.name):
            shutil.copyfile(file, temporary / file.name)
    follow_umask(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync_folder(folder.parent)
