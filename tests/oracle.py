"""The metrics again, independently: plain NumPy over the full model's hidden states, one token at a time.

Shares no code with curate beyond the builder of model inputs.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import LlavaNextForConditionalGeneration


def full_hidden_states(folder: Path, inputs_list, hook_layer: int) -> list[np.ndarray]:
    """Residual stream after block `hook_layer` from the whole model, one sample at a time, in float64."""
    model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    states = []
    for inputs in inputs_list:
        with torch.no_grad():
            output = model(
                input_ids=inputs.input_ids[None],
                pixel_values=inputs.tensors["pixel_values"][None],
                image_sizes=inputs.tensors["image_sizes"],
                output_hidden_states=True,
            )
        states.append(output.hidden_states[hook_layer + 1][0].double().numpy())
    return states


def encode(folder: Path, hidden: np.ndarray) -> np.ndarray:
    """JumpReLU activations from the files of a saved SAE, in float64."""
    config = json.loads((folder / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    weights = {name: value.astype(np.float64) for name, value in load_file(folder / "sae_weights.safetensors").items()}
    centred = hidden - weights["b_dec"] * config["apply_b_dec_to_input"]
    pre = centred @ weights["W_enc"] + weights["b_enc"]
    return np.where(pre > weights["threshold"], np.maximum(pre, 0), 0)


def weights(
    activations: list[np.ndarray], hidden: list[np.ndarray], is_image: list[np.ndarray], k: int, rule: str
) -> np.ndarray:
    """Feature weights; NaN for a feature that has none."""
    z, h, image = np.concatenate(activations), np.concatenate(hidden), np.concatenate(is_image)
    result = np.full(z.shape[1], np.nan)
    for feature in range(z.shape[1]):
        positive = np.flatnonzero(z[:, feature] > 0)
        order = positive[np.argsort(-z[positive, feature], kind="stable")]
        if rule == "merged":
            order = order[:30]
        text = [token for token in order if not image[token]][:k]
        picture = [token for token in order if image[token]][:k]
        if len(text) < k or len(picture) < k:
            continue
        cosines = [
            h[a] @ h[b] / (np.linalg.norm(h[a]) * np.linalg.norm(h[b])) if h[a].any() and h[b].any() else 0.0
            for a in text
            for b in picture
        ]
        result[feature] = sum(cosines) / len(cosines)
    return result


def l0(z: np.ndarray) -> float:
    counts = [np.sum(token > 0) for token in z[1:]]
    return float(np.mean(counts)) if counts else 0.0


def cooccurring(z: np.ndarray, is_image: np.ndarray, delta: float) -> list[int]:
    return [f for f in range(z.shape[1]) if np.any(z[is_image, f] > delta) and np.any(z[~is_image, f] > delta)]


def active(z: np.ndarray, delta: float) -> list[int]:
    return [f for f in range(z.shape[1]) if np.any(z[:, f] > delta)]


def cosine(features: list[int], feature_weights: np.ndarray) -> float:
    return float(sum(0.0 if np.isnan(feature_weights[f]) else feature_weights[f] for f in features))
