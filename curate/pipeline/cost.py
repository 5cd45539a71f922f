"""GPU hours of a run on devices that nobody tried it on, computed from floating-point operations.

A product with n parameters takes 2 n operations a token. The model computes in bfloat16 on a GPU, the SAE's encoder in
float32 always, so each has its own peak. Peaks are of the data sheets, dense, of the SXM versions:
NVIDIA A100 (nvidia.com/a100), H100 (nvidia.com/h100) and H200 (nvidia.com/h200); the last two compute equally fast.

Utilisation: large matrix products reach about 60 to 75% of these peaks, and curate spends 71% of its time at the speed
of a matrix product (docs/performance.md). That makes 43 to 53%; 40% is assumed, since parts of a pass are small.
"""

from dataclasses import dataclass
from typing import Any

import torch
import transformers  # whose attributes are imported when they are used
from torch.utils.flop_counter import FlopCounterMode

from curate.models.family import ModelInfo
from curate.pipeline.plan import Plan

UTILISATION = 0.4


@dataclass(frozen=True)
class Device:
    """A GPU and its peaks, in operations per second."""

    name: str
    bfloat16: float
    float32: float


DEVICES = (Device("A100", 312e12, 19.5e12), Device("H100", 989e12, 67e12), Device("H200", 989e12, 67e12))


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one sample."""

    model: float
    sae: float

    def seconds(self, device: Device) -> float:
        """The time they take on a device."""
        return (self.model / device.bfloat16 + self.sae / device.float32) / UTILISATION


def gpu_hours(plan: Plan, tokens: float, pictures: float, samples: int, device: Device, weighed: bool = False) -> float:
    """Hours of one GPU for the scores of so many samples, and for feature weights if the run computes them.

    Args:
        tokens, pictures: of a sample, on average; a picture is what the vision tower takes: an image or a tile of one.
        weighed: whether the run has its feature weights already.
    """
    parameters = plan.job.parameters
    last = plan.model.n_layers - 1 if parameters.likelihood_of else plan.hook_layer
    seconds = samples * sample_flops(plan, last, tokens, pictures).seconds(device)
    if parameters.needs_weights and plan.weights is None and not weighed:
        n = min(parameters.weight_samples, samples)
        seconds += n * sample_flops(plan, plan.hook_layer, tokens, pictures).seconds(device)
    return seconds / 3600


def sample_flops(plan: Plan, last_layer: int, tokens: float, pictures: float) -> Flops:
    """Operations of a sample up to a layer of the language model, as if it were one text of so many tokens."""
    model = plan.model
    config: Any = transformers.AutoConfig.from_pretrained(model.path, local_files_only=True)
    language = _transformer(_block_parameters(model), last_layer + 1, model.d_model, tokens)
    return Flops(language + pictures * _picture(config, model.d_model), 2 * model.d_model * plan.sae.d_sae * tokens)


def _block_parameters(model: ModelInfo) -> int:
    """Parameters of a block of the language model: what one block more adds."""
    return model.family.n_parameters(model, 1) - model.family.n_parameters(model, 0)


def _transformer(block_parameters: int, blocks: int, width: int, tokens: float) -> float:
    """Products with the parameters, and of attention each token with each, twice, as if none were masked."""
    return blocks * (2 * block_parameters * tokens + 4 * width * tokens**2)


def _picture(config: Any, d_model: int) -> float:
    """Operations before the language model for one picture."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return _chameleon_picture(config)
    width, patches = vision.hidden_size, (vision.image_size // vision.patch_size) ** 2
    block = 4 * width**2 + 2 * width * vision.intermediate_size
    embedding = 2 * patches * vision.num_channels * vision.patch_size**2 * width
    projector = 2 * patches * (width * d_model + d_model**2)
    # One token more than patches, for the class.
    return embedding + _transformer(block, vision.num_hidden_layers, width, patches + 1) + projector


def _chameleon_picture(config: Any) -> float:
    """Its convolutions, counted by torch on tensors without data."""
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    vision = config.vq_config
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ChameleonVQVAE(vision).encoder(torch.empty(1, vision.in_channels, vision.resolution, vision.resolution))
    return counter.get_total_flops()
