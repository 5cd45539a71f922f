"""EleutherAI's sparsify: one folder for each hook point, TopK of non-negative pre-activations.

z = topk(relu(W (x − b_dec) + b)), x̂ = z W_dec + b_dec (sparsify `sparse_coder.py`, `SparseCoder.encode` and `.decode`).
"""

import re

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.format import (
    Format,
    Source,
    TensorReader,
    content_sha256,
    layer_in,
    read_json,
    safetensors_dtype,
    safetensors_reader,
    some_features,
    whole,
)

CONFIG, WEIGHTS, MODEL_CONFIG = "cfg.json", "sae.safetensors", "../config.json"
# `layers.5`, `layer_5`, `model.layers.5`, `h.5`; not `layers.5.mlp`, which is another place in the block.
LAYER = r"^(?:.*\.)?(?:layers?[._]|h\.)(\d+)$"
OTHER_PLACE = r"^(?:.*\.)?(?:layers?[._]|h\.)\d+\.(\w+)"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}


def describe(source: Source) -> DictionaryInfo:
    """An SAE in sparsify's format; its layer is in the folder's name, its model in the config of the folder above.

    Raises:
        ConfigurationError: it is damaged, or not an SAE of the residual stream.
    """
    config = read_json(source, CONFIG)
    d_in = whole(source, "d_in", config.get("d_in"))
    factor = config.get("expansion_factor")
    d_sae = config.get("num_latents") or d_in * whole(source, "expansion_factor", factor)
    d_sae = whole(source, "num_latents", d_sae)
    k = some_features(source, config.get("k"), d_sae)
    _refuse_other_kinds(source, config)
    return DictionaryInfo(
        name=source.name,
        path=source.path,
        weights=source.path / WEIGHTS,
        format=FORMAT.name,
        architecture="topk",
        d_model=d_in,
        d_sae=d_sae,
        hook_layer=layer_in(_hook(source), LAYER),
        model_name=_model(source),
        model_hash=None,
        sha256=content_sha256(source, (CONFIG, WEIGHTS), 1.0),
        config={**config, "apply_b_dec_to_input": True, "normalize_activations": "none"},
        k=k,
    )


def _hook(source: Source) -> str:
    """The name of the module whose output it reads, which is that of its folder."""
    return source.folder.rpartition("/")[2]


def _refuse_other_kinds(source: Source, config: dict[str, object]) -> None:
    hook = _hook(source)
    if any(re.match("(vision|visual)(_|$)", part) for part in hook.split(".")):
        raise ConfigurationError(f"--sae {source.name}: it reads {hook}, which is not of the language model")
    if other := re.match(OTHER_PLACE, hook):
        raise ConfigurationError(f"--sae {source.name}: it reads the {other[1]} of a block, not the residual stream")
    if hook.endswith("embed_tokens"):
        raise ConfigurationError(f"--sae {source.name}: it reads embeddings, not the residual stream after a block")
    for kind, what in (("transcode", "a transcoder"), ("skip_connection", "an SAE with a skip connection")):
        if config.get(kind):
            raise ConfigurationError(f"--sae {source.name}: it is {what}; only plain SAEs are read")
    if config.get("signed"):
        raise ConfigurationError(f"--sae {source.name}: its activations have signs (signed: true); no such SAE is read")
    if (activation := config.get("activation", "topk")) != "topk":
        raise ConfigurationError(f"--sae {source.name}: its activation is {activation}; topk alone is read")


def _model(source: Source) -> str | None:
    try:
        name = read_json(source, MODEL_CONFIG).get("model")
    except ConfigurationError:
        return None
    return name if isinstance(name, str) else None


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors; the encoder is stored as [d_sae, d_in]."""
    return safetensors_reader(info.weights, NAMES, transposed=("W_enc",))


FORMAT = Format("sparsify", WEIGHTS, (CONFIG, MODEL_CONFIG), describe, open_tensors, safetensors_dtype)
