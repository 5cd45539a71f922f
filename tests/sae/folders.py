"""Small SAEs in folders as they are published, of every format, each with the published formula in float64 NumPy."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from safetensors.torch import save_file
from torch import Tensor

D_MODEL, D_SAE = 16, 64
HIDDEN = torch.randn(200, D_MODEL, generator=torch.Generator().manual_seed(1)) * 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def close(found, expected):
    torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=1e-5)


def of(sae):
    rescaled = "-rescaled" if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else ""
    return f"{sae.cfg.architecture()}{rescaled}-{sae.cfg.normalize_activations}-{sae.cfg.apply_b_dec_to_input}"


# sae_lens's own format


def saved(folder, sae):
    """A random one, as sae_lens writes it today."""
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    if hasattr(sae, "threshold"):
        sae.threshold.data = sae.threshold.data.abs()
    sae.cfg.metadata.hook_layer = 3
    sae.save_model(folder)
    return folder


def configs():
    for normalize in ("none", "layer_norm", "constant_norm_rescale"):
        for centre in (True, False):
            common = {
                "d_in": D_MODEL,
                "d_sae": D_SAE,
                "normalize_activations": normalize,
                "apply_b_dec_to_input": centre,
            }
            yield StandardSAE(StandardSAEConfig(**common))
            yield JumpReLUSAE(JumpReLUSAEConfig(**common))
            yield GatedSAE(GatedSAEConfig(**common))
            yield TopKSAE(TopKSAEConfig(**common, k=7))
            yield TopKSAE(TopKSAEConfig(**common, k=7, rescale_acts_by_decoder_norm=True))


def edit(folder, **changes):
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    metadata = changes.pop("metadata", None)
    config |= changes
    if metadata is not None:
        config["metadata"] = metadata
    path.write_text(json.dumps(config))
    return str(folder)


OLD = {
    "model_name": "gemma-2b",
    "hook_point": "blocks.6.hook_resid_post",
    "hook_point_layer": 6,
    "hook_point_head_index": None,
    "dataset_path": "HuggingFaceFW/fineweb",
    "context_size": 1024,
    "use_cached_activations": False,
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "expansion_factor": 4,
    "l1_coefficient": 2,
    "lr": 0.0004,
    "seed": 42,
    "dtype": "torch.float32",
    "device": "cuda",
    "training_tokens": 1_000_000,
    "sparsity_kwargs": {"lp_norm": 1.0},
}
# What SAELens-V, a fork of sae_lens 3, writes beside the published SAE-V.
SAE_V = {
    "architecture": "standard",
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "hook_name": "blocks.16.hook_resid_post",
    "hook_layer": 16,
    "hook_head_index": None,
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "apply_b_dec_to_input": False,
    "finetuning_scaling_factor": False,
    "normalize_activations": "expected_average_only_in",
    "model_name": "llava-hf/llava-v1.6-mistral-7b-hf",
    "model_from_pretrained_kwargs": {},
    "dtype": "torch.float32",
    "device": "cuda",
    "sae_lens_training_version": "3.20.0",
    "context_size": 4096,
    "prepend_bos": True,
}


def old(folder, scaling_factor=1.0, **changes):
    """A folder as sae_lens 1 to 5 wrote it: one flat config, `scaling_factor` beside the weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_MODEL, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_MODEL), "b_dec": (D_MODEL,)}
    tensors = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    if scaling_factor is not None:
        tensors["scaling_factor"] = torch.ones(D_SAE) * scaling_factor
    folder.mkdir(exist_ok=True, parents=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({**OLD, **changes}))
    return folder


# All formats


@dataclass(frozen=True)
class Published:
    """A folder and what its format's publisher says it computes.

    Attributes:
        folder: or the file of one of many.
        repo: the hub's repository that the folder's parents stand for, and the folder's path in it.
        facts: of `DictionaryInfo`.
        tensors: by sae_lens's names, as the file rounds them, in float64.
        encode, decode: the published formula, in float64.
    """

    folder: Path
    repo: str
    path: str
    facts: Mapping[str, object]
    tensors: Mapping[str, np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


def drawn(dtype: torch.dtype, d_sae: int = D_SAE, d_model: int = D_MODEL) -> dict[str, Tensor]:
    """Random tensors by sae_lens's names, rounded to the precision that they are published in."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"W_enc": (d_model, d_sae), "W_dec": (d_sae, d_model), "b_enc": (d_sae,), "b_dec": (d_model,)}
    found = {key: torch.randn(shape, generator=generator) * 0.5 for key, shape in shapes.items()}
    found["threshold"] = torch.rand(d_sae, generator=generator) * 3
    return {key: tensor.to(dtype) for key, tensor in found.items()}


def doubles(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: tensor.double().numpy() for key, tensor in tensors.items()}


def affine(t: Mapping[str, np.ndarray], subtract: bool) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (x - t["b_dec"] * subtract) @ t["W_enc"] + t["b_enc"]


def relu(pre):
    return np.maximum(pre, 0)


def jump(threshold) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pre: np.where(pre > threshold, relu(pre), 0)


def strongest(k: int) -> Callable[[np.ndarray], np.ndarray]:
    def kept(pre):
        z = relu(pre)
        z[z < np.sort(z, axis=1)[:, -k][:, None]] = 0
        return z

    return kept


def published(folder, repo, path, facts, tensors, pre, activate, scale=1.0) -> Published:
    """With hidden states scaled by `scale` before they are encoded, and back after they are decoded."""
    return Published(
        folder=folder,
        repo=repo,
        path=path,
        facts=facts,
        tensors=tensors,
        encode=lambda x: activate(pre(x * scale)),
        decode=lambda z: (z @ tensors["W_dec"] + tensors["b_dec"]) / scale,
    )


def write(folder: Path, config: str | None, content: Mapping[str, Any] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / config).write_text(json.dumps(content))
    return folder


def sae_lens_today(root: Path, dtype: torch.dtype = torch.float32) -> Published:
    t = drawn(dtype)
    config = {
        "architecture": "jumprelu",
        "d_in": D_MODEL,
        "d_sae": D_SAE,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "llava-hf/llava-v1.6-mistral-7b-hf",
            "hook_name": "blocks.3.hook_resid_post",
        },
    }
    folder = write(root / "layer_3", "cfg.json", config)
    save_file(t, folder / "sae_weights.safetensors")
    facts = {"hook_layer": 3, "model_name": "llava-hf/llava-v1.6-mistral-7b-hf", "architecture": "jumprelu"}
    d = doubles(t)
    return published(folder, "someone/saes", "layer_3", facts, d, affine(d, True), jump(d["threshold"]))


def sae_v(root: Path, dtype: torch.dtype = torch.float32) -> Published:
    """As the paper's authors publish theirs, but for a scale that its release would have to list."""
    t = {key: tensor for key, tensor in drawn(dtype).items() if key != "threshold"}
    folder = write(root / "SAEV_LLaVA_NeXT-7b_OBELICS", "cfg.json", {**SAE_V, "normalize_activations": "none"})
    save_file({**t, "scaling_factor": torch.ones(D_SAE)}, folder / "sae_weights.safetensors")
    facts = {"hook_layer": 16, "model_name": SAE_V["model_name"], "architecture": "standard"}
    d = doubles(t)
    path = "SAEV_LLaVA_NeXT-7b_OBELICS"
    return published(folder, "PKU-Alignment/SAE-V", path, facts, d, affine(d, False), relu)


def sparsify(root: Path, dtype: torch.dtype = torch.bfloat16) -> Published:
    t = drawn(dtype)
    config = {
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": D_SAE,
        "k": 7,
        "multi_topk": False,
        "skip_connection": False,
        "d_in": D_MODEL,
    }
    folder = write(root / "model.layers.24", "cfg.json", config)
    above = {"model": "llava-hf/llama3-llava-next-8b-hf", "dataset": "lmms-lab/LLaVA-NeXT-Data", "batch_size": 1}
    write(root, "config.json", above)
    names = {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"], "W_dec": t["W_dec"], "b_dec": t["b_dec"]}
    save_file({key: tensor.contiguous() for key, tensor in names.items()}, folder / "sae.safetensors")
    facts = {"hook_layer": 24, "model_name": above["model"], "architecture": "topk", "k": 7}
    d = doubles(t)
    repo = "lmms-lab/llama3-llava-next-8b-hf-sae-131k"
    return published(folder, repo, "model.layers.24", facts, d, affine(d, True), strongest(7))


def gemma_scope_2(root: Path, dtype: torch.dtype = torch.float32, config: bool = True) -> Published:
    t = drawn(dtype)
    content = {
        "hf_hook_point_in": "model.layers.17.output",
        "hf_hook_point_out": "model.layers.17.output",
        "width": D_SAE,
        "model_name": "gemma-v3-4b-it",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": False,
        "type": "sae",
    }
    path = "resid_post/layer_17_width_16k_l0_small"
    folder = write(root / path, "config.json" if config else None, content)
    names = {key.lower(): tensor for key, tensor in t.items()}
    save_file(names, folder / "params.safetensors")
    # Without a config and a repository nobody says which model it is for.
    facts = {"hook_layer": 17, "model_name": "google/gemma-3-4b-it" if config else None, "architecture": "jumprelu"}
    d = doubles(t)
    return published(folder, "google/gemma-scope-2-4b-it", path, facts, d, affine(d, False), jump(d["threshold"]))


def gemma_scope(root: Path, dtype: torch.dtype = torch.float32) -> Published:
    t = drawn(dtype)
    path = "layer_20/width_16k/average_l0_71"
    folder = write(root / path, None, None)
    np.savez(folder / "params.npz", **{key: tensor.numpy() for key, tensor in t.items()})
    facts = {"hook_layer": 20, "architecture": "jumprelu"}
    d = doubles(t)
    return published(folder, "google/gemma-scope-2b-pt-res", path, facts, d, affine(d, False), jump(d["threshold"]))


def llama_scope(root: Path, dtype: torch.dtype = torch.bfloat16) -> Published:
    t, norm, threshold = drawn(dtype), 7.25, 0.75
    hook = "blocks.15.hook_resid_post"
    content = {
        "hook_point_in": hook,
        "hook_point_out": hook,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "expansion_factor": 8,
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "act_fn": "jumprelu",
        "jump_relu_threshold": threshold,
        "use_glu_encoder": False,
        "top_k": 50,
    }
    path = "Llama3_1-8B-Base-L15R-8x"
    folder = write(root / path, "hyperparams.json", content)
    (folder / "checkpoints").mkdir(exist_ok=True)
    names = {
        "encoder.weight": t["W_enc"].T,
        "encoder.bias": t["b_enc"],
        "decoder.weight": t["W_dec"].T,
        "decoder.bias": t["b_dec"],
    }
    save_file({key: tensor.contiguous() for key, tensor in names.items()}, folder / "checkpoints/final.safetensors")
    scale = D_MODEL**0.5 / norm
    facts = {
        "hook_layer": 15,
        "model_name": "meta-llama/Llama-3.1-8B",
        "architecture": "jumprelu",
        "scale": scale,
        "units": "normalised",
    }
    d = doubles(t)
    repo = "fnlp/Llama3_1-8B-Base-LXR-8x"
    return published(folder, repo, path, facts, d, affine(d, False), jump(threshold * scale), scale)


def dictionary_learning(root: Path, kind: str = "BatchTopKSAE", dtype: torch.dtype = torch.float32) -> Published:
    t = drawn(dtype)
    content = {
        "trainer": {
            "trainer_class": kind.replace("SAE", "Trainer"),
            "dict_class": kind,
            "activation_dim": D_MODEL,
            "dict_size": D_SAE,
            "k": 7,
            "layer": 11,
            "lm_name": "Qwen/Qwen2.5-7B-Instruct",
            "submodule_name": "resid_post_layer_11",
        },
        "buffer": {"d_submodule": D_MODEL, "io": "out", "ctx_len": 1024},
    }
    path = "resid_post_layer_11/trainer_0"
    folder = write(root / path, "config.json", content)
    linear = {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"], "decoder.weight": t["W_dec"].T}
    plain = {key: t[key] for key in ("W_enc", "W_dec", "b_enc", "b_dec")}
    k = torch.tensor(7)
    kinds: dict[str, tuple[dict[str, Tensor], str, bool, Any]] = {
        "AutoEncoder": ({**linear, "bias": t["b_dec"]}, "standard", True, relu),
        "AutoEncoderTopK": (
            {**linear, "b_dec": t["b_dec"], "k": k, "threshold": torch.tensor(0.6)},
            "topk",
            True,
            strongest(7),
        ),
        "BatchTopKSAE": (
            {**linear, "b_dec": t["b_dec"], "k": k, "threshold": torch.tensor(0.5)},
            "jumprelu",
            True,
            jump(0.5),
        ),
        "MatryoshkaBatchTopKSAE": (
            {**plain, "k": k, "threshold": torch.tensor(0.5), "group_sizes": torch.tensor([16, 48])},
            "jumprelu",
            True,
            jump(0.5),
        ),
        "JumpReluAutoEncoder": (
            {**plain, "threshold": t["threshold"]},
            "jumprelu",
            False,
            jump(doubles(t)["threshold"]),
        ),
    }
    tensors, architecture, subtract, activate = kinds[kind]
    torch.save(tensors, folder / "ae.pt")
    facts = {"hook_layer": 11, "model_name": "Qwen/Qwen2.5-7B-Instruct", "architecture": architecture}
    d = doubles(t)
    repo = "andyrdt/saes-qwen2.5-7b-instruct"
    return published(folder, repo, path, facts, d, affine(d, subtract), activate)


def qwen_scope(root: Path, dtype: torch.dtype = torch.bfloat16) -> Published:
    t = drawn(dtype, 1024)
    repo = "SAE-Res-Qwen3-8B-Base-W1K-L0_50"
    folder = write(root / repo, None, None)
    names = {"W_enc": t["W_enc"].T, "W_dec": t["W_dec"].T, "b_enc": t["b_enc"], "b_dec": t["b_dec"]}
    file = folder / "layer12.sae.pt"
    torch.save(names, file)
    torch.save({}, folder / "layer13.sae.pt")
    facts = {"hook_layer": 12, "model_name": "Qwen/Qwen3-8B-Base", "architecture": "topk", "k": 50}
    d = doubles(t)
    return published(file, f"Qwen/{repo}", "layer12.sae.pt", facts, d, affine(d, False), strongest(50))


SAFE = {
    "sae_lens": sae_lens_today,
    "sae_v": sae_v,
    "sparsify": sparsify,
    "gemma_scope_2": gemma_scope_2,
    "gemma_scope": gemma_scope,
    "llama_scope": llama_scope,
}
PICKLED = {
    "dictionary_learning": dictionary_learning,
    "qwen_scope": qwen_scope,
}


def lens(folder) -> SAE:
    return SAE.load_from_disk(folder)
