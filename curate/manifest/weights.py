"""Feature weights on disk: `weights/`, reusable by other runs of the same model and SAE."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor
from upath import UPath

from curate.errors import ConfigurationError, first_line
from curate.fingerprint import file_sha256
from curate.manifest.atomic import write_atomically, write_text
from curate.manifest.record import WEIGHTS_FOLDER
from curate.storage import location

WEIGHTS_FILE, WEIGHTS_RECORD = "feature_weights.safetensors", "feature_weights.json"
PLACES = ("row", "position", "activation")
# What fields of the record are called in messages.
NAMES = {
    "model_sha256": "model hash",
    "sae_sha256": "SAE hash",
    "hook_layer": "hook layer",
    "top_k": "top-K",
    "rule": "weight rule",
    "text": "text",
}


class WeightsRecord(BaseModel):
    """What feature weights were computed from."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    schema_version: Literal[1] = 1
    sha256: str
    model_sha256: str
    sae_sha256: str
    sae_scale: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="activation scale that the SAE was read with; older versions did not write it",
    )
    dataset_sha256: str
    hook_layer: int
    text: str
    rule: str
    top_k: int
    seed: int
    samples: int
    features: int
    features_without_weight: int


def write_weights(
    folder: UPath,
    weight: Float[Tensor, " d_sae"],
    has_weight: Bool[Tensor, " d_sae"],
    places: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    **facts: str | int | float,
) -> WeightsRecord:
    """Write feature weights and their record.

    Args:
        places: of `text` and `image`, where each feature's strongest tokens are: row, position and activation, each
            [d_sae, K].
        facts: the fields of `WeightsRecord` that the tensors do not tell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"weight": weight.cpu().contiguous(), "has_weight": has_weight.cpu().contiguous()}
    for modality, parts in places.items():
        tensors |= {f"{modality}_{name}": part for name, part in zip(PLACES, parts, strict=True)}
    write_atomically(folder / WEIGHTS_FILE, lambda temporary: save_file(tensors, temporary))
    record = WeightsRecord.model_validate(
        {
            **facts,
            "sha256": file_sha256(folder / WEIGHTS_FILE),
            "features": len(weight),
            "features_without_weight": int((~has_weight).sum()),
        }
    )
    write_text(folder / WEIGHTS_RECORD, record.model_dump_json(indent=2) + "\n")
    return record


def weights_folder(path: UPath) -> UPath:
    """The folder of feature weights: `path` itself, or `weights/` in the run folder that it is."""
    return path if (path / WEIGHTS_RECORD).exists() else path / WEIGHTS_FOLDER


def read_weights(folder: UPath) -> tuple[Float[Tensor, " d_sae"], WeightsRecord]:
    """Feature weights (0 for a feature without one) and their record.

    Raises:
        ConfigurationError: files missing, damaged, or not belonging together.
    """
    folder = weights_folder(folder)
    try:
        record = WeightsRecord.model_validate_json((folder / WEIGHTS_RECORD).read_text(encoding="utf-8"))
        tensors = load((folder / WEIGHTS_FILE).read_bytes())
        weight = tensors["weight"]
    except (FileNotFoundError, NotADirectoryError, ValidationError, SafetensorError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigurationError(f"{folder} does not hold whole feature weights ({reason})") from error
    if file_sha256(folder / WEIGHTS_FILE) != record.sha256:
        raise ConfigurationError(f"{folder / WEIGHTS_FILE} is not the file that {WEIGHTS_RECORD} describes")
    if weight.dtype != torch.float64 or len(weight) != record.features or not bool(weight.isfinite().all()):
        raise ConfigurationError(
            f"{folder / WEIGHTS_FILE} holds no finite float64 weights of {record.features} features"
        )
    return weight, record


def given_weights(folder: str, **wanted: object) -> tuple[Float[Tensor, " d_sae"], WeightsRecord]:
    """Feature weights that a user names, and their record.

    Args:
        wanted: fields of the record, as they must be.

    Raises:
        ConfigurationError: they are of another model, SAE or rule, or as of `read_weights`.
    """
    weight, record = read_weights(location(folder))
    have = {name: getattr(record, name) for name in wanted}
    if differences := [
        f"{NAMES[name]} {str(have[name])[:16]} ≠ {str(need)[:16]}"
        for name, need in wanted.items()
        if have[name] != need
    ]:
        raise ConfigurationError(f"--weights {folder}: computed with another {'; '.join(differences)}")
    return weight, record


def read_places(folder: UPath, modality: Literal["text", "image"]) -> tuple[Tensor, Tensor, Tensor]:
    """Where each feature's strongest tokens of a modality are: row, position and activation, each [d_sae, K].

    Weights that were made of no sample name none: K is 0.

    Raises:
        ConfigurationError: as of `read_weights`.
    """
    weight, _ = read_weights(folder)
    tensors = load((weights_folder(folder) / WEIGHTS_FILE).read_bytes())
    none = torch.zeros(len(weight), 0, dtype=torch.int64)
    row, position, activation = (tensors.get(f"{modality}_{name}", none) for name in PLACES)
    if not row.shape == position.shape == activation.shape == (len(weight), row.shape[1]):
        raise ConfigurationError(f"{folder / WEIGHTS_FILE} does not say of each feature where its tokens are")
    return row, position, activation
