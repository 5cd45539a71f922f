"""dictionary_learning (Marks, Karvonen & Mueller): `ae.pt`, a pickle, beside `config.json`. Read by `sae import` alone.

z = activation((x − b_dec) W_encᵀ + b_enc); `JumpReluAutoEncoder` alone does not subtract b_dec. A trained BatchTopK
compares with one threshold, as a JumpReLU does (dictionary_learning `dictionary.py` and `trainers/batch_top_k.py`).
"""

import torch
from torch import Tensor

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.format import (
    UNPICKLED,
    Format,
    Source,
    TensorReader,
    content_sha256,
    read_json,
    safetensors_dtype,
    safetensors_reader,
    shapes,
    some_features,
    whole,
)

CONFIG, PICKLE = "config.json", "ae.pt"
# Classes, and the architecture that each is read as.
CLASSES = {
    "AutoEncoder": "standard",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
}
# What files call a tensor, by sae_lens's name; the first that is there counts.
NAMES = {
    "W_enc": ("W_enc", "encoder.weight"),
    "W_dec": ("W_dec", "decoder.weight"),
    "b_enc": ("b_enc", "encoder.bias"),
    "b_dec": ("b_dec", "bias", "decoder_bias"),
}
LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}  # stored as linear layers, the other way round


def describe(source: Source) -> DictionaryInfo:
    """An SAE of dictionary_learning whose pickle was rewritten as safetensors.

    Raises:
        ConfigurationError: it is of another class, not of the residual stream, or damaged.
    """
    config = read_json(source, CONFIG)
    trainer, buffer = config.get("trainer"), config.get("buffer")
    if not isinstance(trainer, dict):
        raise ConfigurationError(f"--sae {source.name}: {CONFIG} holds no trainer")
    kind = trainer.get("dict_class")
    if kind not in CLASSES:
        known = ", ".join(CLASSES)
        raise ConfigurationError(f"--sae {source.name}: its dict_class is {kind}; these are read: {known}")
    if trainer.get("submodule_name") not in (None, f"resid_post_layer_{trainer.get('layer')}"):
        raise ConfigurationError(
            f"--sae {source.name}: it reads {trainer['submodule_name']}, not the residual stream after a block"
        )
    if isinstance(buffer, dict) and buffer.get("io", "out") != "out":
        raise ConfigurationError(f"--sae {source.name}: it reads what goes into a submodule, not what comes out")
    d_model = whole(source, "activation_dim", trainer.get("activation_dim"))
    d_sae = whole(source, "dict_size", trainer.get("dict_size"))
    architecture = CLASSES[kind]
    model = trainer.get("lm_name")
    return DictionaryInfo(
        name=source.name,
        path=source.path,
        weights=source.path / UNPICKLED,
        format=FORMAT.name,
        architecture=architecture,
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=whole(source, "layer", trainer.get("layer")),
        model_name=model if isinstance(model, str) else None,
        model_hash=None,
        sha256=content_sha256(source, (CONFIG, UNPICKLED), 1.0),
        config={"apply_b_dec_to_input": kind != "JumpReluAutoEncoder", "normalize_activations": "none"},
        k=some_features(source, trainer.get("k"), d_sae) if architecture == "topk" else None,
        notes=(f"read from dictionary_learning's {kind}",),
    )


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors."""
    found = shapes(info.weights)
    names = {key: next((own for own in owns if own in found), owns[0]) for key, owns in NAMES.items()}
    transposed = [key for own, key in LINEAR.items() if names[key] == own]
    of_file = safetensors_reader(info.weights, names, transposed)

    def tensor(key: str, *shape: int, default: float | None = None) -> Tensor:
        if key == "threshold" and found.get(key) == ():  # one for all features
            threshold = of_file(key)
            if threshold < 0:  # which it is set to until training has measured it
                raise ConfigurationError(f"--sae {info.name}: its threshold is {float(threshold):g}: never measured")
            return threshold.expand(shape).contiguous()
        if key == "b_enc" and names[key] not in found:
            return torch.zeros(shape)
        return of_file(key, *shape, default=default)

    return tensor


FORMAT = Format("dictionary_learning", PICKLE, (CONFIG,), describe, open_tensors, safetensors_dtype, pickled=True)
