"""The model families, and `inspect_model`, which says what a name stands for; its family loads it."""

import json
from pathlib import Path

from curate.errors import ConfigurationError, first_line
from curate.fingerprint import files_sha256, remembered_sha256
from curate.hub import fetch
from curate.models import DEFAULT_MODEL, FILES, causal_lm, chameleon, llava, llava_next
from curate.models.family import ModelInfo

FAMILIES = {
    family.model_type: family for family in (llava_next.FAMILY, llava.FAMILY, chameleon.FAMILY, *causal_lm.FAMILIES)
}


def inspect_model(name: str) -> ModelInfo:
    """What a model is, from its files; weights are hashed but not loaded.

    Raises:
        ConfigurationError: no known family, or files missing.
        DataError: the hub cannot be reached.
    """
    path = Path(name)
    if not path.is_dir():
        if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
            raise ConfigurationError(f"--model {name}: no such folder, and not a hub id such as {DEFAULT_MODEL}")
        path = fetch(name, "model", FILES, "name a local copy with --model")
    try:
        config = json.loads((path / "config.json").read_text())
        family = FAMILIES.get(config["model_type"])
    except FileNotFoundError as error:
        raise ConfigurationError(f"--model {name}: there is no config.json in {path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"--model {name}: config.json is not a model's config: {error}") from error
    if family is None:
        known = ", ".join(FAMILIES)
        raise ConfigurationError(f"--model {name}: its type is {config['model_type']}; these are known: {known}")
    files = sorted({file for pattern in FILES for file in path.glob(pattern)})
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigurationError(f"--model {name}: there is no .safetensors file in {path}; no other format is read")
    try:
        text = family.text_config(config)
        sizes = [int(str(text[key])) for key in ("hidden_size", "num_hidden_layers", "max_position_embeddings")]
    except ConfigurationError:
        raise
    # transformers checks configs with errors of many libraries; each means that this one cannot be used.
    except Exception as error:
        reason = first_line(error)
        raise ConfigurationError(f"--model {name}: config.json cannot be used: {reason}") from error
    d_model, n_layers, context = sizes
    return ModelInfo(
        name=name,
        path=path,
        family=family,
        d_model=d_model,
        n_layers=n_layers,
        context=context,
        sha256=files_sha256(path, files, remembered_sha256),
    )
