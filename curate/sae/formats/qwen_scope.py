"""Qwen-Scope: TopK in one pickle for each layer, `layerN.sae.pt`; read by `curate sae import` alone.

z = topk(x W_encᵀ + b_enc), x̂ = W_dec z + b_dec: b_dec is not subtracted from the input (as sae_lens reads it). k and
width are in the repository's name, `SAE-Res-{model}-W{N}K-L0_{k}`, N counting 1,024 features.
"""

import re

from curate.errors import ConfigurationError
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.format import (
    UNPICKLED,
    Format,
    Source,
    TensorReader,
    content_sha256,
    layer_in,
    safetensors_dtype,
    safetensors_reader,
    shapes,
    some_features,
    width_and_features,
)

REPO = re.compile(r"SAE-Res-(?P<model>.+)-W(?P<width>\d+)K-L0_(?P<k>\d+)")
LAYER = r"^layer(\d+)\.sae\.pt$"


def describe(source: Source) -> DictionaryInfo:
    """An SAE of Qwen-Scope whose pickle was rewritten as safetensors.

    Raises:
        ConfigurationError: the names of repository and file do not tell what it is, or it is damaged.
    """
    told = next(filter(None, map(REPO.search, (source.repo or "", source.folder))), None)
    layer = layer_in(source.folder, LAYER)
    if told is None or layer is None:
        raise ConfigurationError(
            f"--sae {source.name}: model, width, k and layer are in the names of repository and file, such as "
            "SAE-Res-Qwen3-8B-Base-W64K-L0_50/layer12.sae.pt; these are others"
        )
    path = source.path / UNPICKLED
    d_sae, d_model = width_and_features(source, path, shapes(path), "W_enc")
    if d_sae != 1024 * int(told["width"]):
        raise ConfigurationError(f"--sae {source.name}: it has {d_sae:,} features, and its name says {told['width']}K")
    return DictionaryInfo(
        name=source.name,
        path=source.path,
        weights=path,
        format=FORMAT.name,
        architecture="topk",
        d_model=d_model,
        d_sae=d_sae,
        hook_layer=layer,
        model_name=f"Qwen/{told['model']}",
        model_hash=None,
        sha256=content_sha256(source, (UNPICKLED,), 1.0),
        config={"apply_b_dec_to_input": False, "normalize_activations": "none"},
        k=some_features(source, int(told["k"]), d_sae),
    )


def open_tensors(info: DictionaryInfo) -> TensorReader:
    """A reader of its tensors; both matrices are stored as linear layers, the other way round."""
    return safetensors_reader(info.weights, {}, transposed=("W_enc", "W_dec"))


FORMAT = Format("qwen_scope", "layer*.sae.pt", (), describe, open_tensors, safetensors_dtype, pickled=True)
