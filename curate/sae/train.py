"""sae_lens's trainer: made from our parameters, saved and restored exactly, and its result written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from curate.sae.parameters import Architecture, TrainingParameters
from curate.storage import follow_umask

if TYPE_CHECKING:
    from sae_lens.training.sae_trainer import SAETrainer

TENSORS_FILE, STATE_FILE = "trainer.safetensors", "trainer.json"


def new_trainer(parameters: TrainingParameters, d_model: int, device: str) -> "SAETrainer[Any, Any]":
    """A trainer at its first step. It is driven from outside, by `step`: it has no data of its own.

    Raises:
        ValueError: k is over the number of features.
    """
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    p = parameters
    torch.manual_seed(p.seed)
    d_sae = p.expansion * d_model
    if p.architecture in ("topk", "batchtopk") and p.k > d_sae:
        raise ValueError(f"k {p.k} is more than the {d_sae:,} features there are")
    l1: dict[str, Any] = {"l1_coefficient": p.l1_coefficient, "l1_warm_up_steps": p.l1_warm_up_steps}
    l0: dict[str, Any] = {"l0_coefficient": p.l0_coefficient, "l0_warm_up_steps": p.l0_warm_up_steps}
    kinds: dict[Architecture, tuple[Any, Any, dict[str, Any]]] = {
        "standard": (sae_lens.StandardTrainingSAE, sae_lens.StandardTrainingSAEConfig, l1),
        "gated": (sae_lens.GatedTrainingSAE, sae_lens.GatedTrainingSAEConfig, l1),
        "jumprelu": (sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig, l0),
        "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig, {"k": p.k}),
        "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig, {"k": p.k}),
    }
    sae_class, config_class, sparsity = kinds[p.architecture]
    # Hidden states are scaled before they come here, so that the scale is known and saved from the first step on.
    sae = sae_class(config_class(d_in=d_model, d_sae=d_sae, device=device, normalize_activations="none", **sparsity))
    config = SAETrainerConfig(
        total_training_samples=p.steps * p.train_batch_size_tokens,
        train_batch_size_samples=p.train_batch_size_tokens,
        lr=p.lr,
        lr_end=0.1 * p.lr,  # which sae_lens wants, and does not read where the rate is constant until it decays
        lr_warm_up_steps=p.lr_warm_up_steps,
        lr_decay_steps=p.lr_decay_steps,
        adam_beta1=p.adam_beta1,
        adam_beta2=p.adam_beta2,
        device=device,
        autocast=p.autocast,
        dead_feature_window=p.dead_feature_window,
        feature_sampling_window=p.feature_sampling_window,
    )
    return SAETrainer(config, sae, iter(()))


def step(trainer: "SAETrainer[Any, Any]", batch: Tensor) -> Any:
    """One optimizer step, as the body of sae_lens's own `fit`; returns its TrainStepOutput.

    Args:
        batch: (tokens, d_model) hidden states, scaled.
    """
    trainer.maybe_reset_sparsity()
    output = trainer.step(batch)
    trainer.n_training_steps += 1
    return output


def save_trainer(trainer: "SAETrainer[Any, Any]", folder: Path) -> None:
    """Write all that decides the steps to come; sae_lens's own checkpoints are pickles.

    Numbers are written so that they are read again bit for bit.
    """
    optimizer = trainer.optimizer.state_dict()
    tensors = {f"sae.{name}": tensor for name, tensor in trainer.sae.state_dict().items()}
    tensors |= {
        f"adam.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer["state"].items()
        for name, value in state.items()
    }
    tensors |= {name: getattr(trainer, name) for name in ("act_freq_scores", "n_forward_passes_since_fired")}
    tensors |= {"rng": torch.get_rng_state()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS_FILE)
    state = {
        "param_groups": optimizer["param_groups"],
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {name: each.state_dict() for name, each in trainer.coefficient_schedulers.items()},
        "n_training_steps": trainer.n_training_steps,
        "n_training_samples": trainer.n_training_samples,
        "n_frac_active_samples": trainer.n_frac_active_samples,
    }
    (folder / STATE_FILE).write_text(json.dumps(state))


def restore_trainer(trainer: "SAETrainer[Any, Any]", folder: Path) -> None:
    """Set a new trainer to a saved state.

    Raises:
        OSError, ValueError, KeyError, SafetensorError, RuntimeError: it is damaged, or of another trainer.
    """
    device = trainer.cfg.device
    tensors, state = load_file(folder / TENSORS_FILE), json.loads((folder / STATE_FILE).read_text())
    trainer.sae.load_state_dict({name: tensors[f"sae.{name}"].to(device) for name in trainer.sae.state_dict()})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = tensor
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
    for name, each in trainer.coefficient_schedulers.items():
        each.load_state_dict(state["coefficients"][name])
    for name in ("n_training_steps", "n_training_samples", "n_frac_active_samples"):
        setattr(trainer, name, state[name])
    for name in ("act_freq_scores", "n_forward_passes_since_fired"):
        setattr(trainer, name, tensors[name].to(device))
    torch.set_rng_state(tensors["rng"])


def save_dictionary(trainer: "SAETrainer[Any, Any]", folder: Path, scale: float, facts: Mapping[str, object]) -> None:
    """Write the trained SAE in sae_lens's format, with the activation scale folded into its weights.

    Args:
        scale: what hidden states were multiplied with; activations stay in these normalised units.
        facts: for the metadata.
    """
    from sae_lens import SAE

    trainer.set_final_sae_metadata()
    trainer.sae.save_inference_model(folder)
    sae = SAE.load_from_disk(folder)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        # Or folding the scale, which changes these norms, would change the activations' units.
        sae.fold_W_dec_norm()
        sae.cfg.rescale_acts_by_decoder_norm = False
    sae.fold_activation_norm_scaling_factor(scale)
    for name, value in facts.items():
        setattr(sae.cfg.metadata, name, value)
    sae.save_model(folder)
    follow_umask(folder)
