"""The table of published SAEs (`known.yaml`): which models each fits, where it lies, and what is known about it."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel, field_validator, model_validator

from curate.errors import ConfigurationError

TABLE = Path(__file__).parent / "known.yaml"
PICKLED = ("dictionary_learning", "qwen_scope")


class KnownSAE(BaseModel):
    """A published SAE, for one layer or for several layers of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="What --sae takes, as NAME or NAME:LAYER.")
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Repository on the Hugging Face hub.")
    folder: str = Field(
        description="Folder in the repository (in the format qwen_scope, a file); empty for the root. {layer} stands "
        "for the layer, {part} for the layer's entry in `parts`."
    )
    parts: tuple[int | str, ...] = Field(
        default=(), description="What {part} in `folder` stands for, layer by layer; empty where there is no {part}."
    )
    revision: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{40}$", description="Commit to fetch; null for the newest."
    )
    format: Literal[
        "sae_lens",
        "sparsify",
        "gemma_scope_2",
        "gemma_scope",
        "llama_scope",
        "dictionary_learning",
        "qwen_scope",
    ] = Field(description="File format; dictionary_learning and qwen_scope are pickles, which must be imported first.")
    models: tuple[str, ...] = Field(
        min_length=1, description="Models that it fits, as hub ids; the one that it was trained on comes first."
    )
    layers: tuple[int, ...] = Field(
        min_length=1,
        description="Hook layers, ascending: it reads the residual stream after this block (0-based).",
    )
    d_sae: int = Field(gt=0, description="Number of features.")
    architecture: Literal["standard", "topk", "jumprelu", "batchtopk", "gated"] = Field(
        description="How pre-activations become activations, as trained."
    )
    trained_on: Literal["images and text", "text"] | None = Field(
        default=None, description="What its tokens were in training; null where the publisher does not say."
    )
    licence: str | None = Field(default=None, description="Licence, as published; null where it is not known.")
    bytes: int | None = Field(
        default=None, gt=0, description="Download of one layer, to the digits published; null where it is not known."
    )
    overrides: dict[str, JsonValue] = Field(
        default={},
        description="Entries of its config that are wrong or leave something open, and what they should be; sae_lens's "
        "registry lists the same.",
    )
    default_for: tuple[str, ...] = Field(
        default=(), description="Models for which it is taken when --sae is not given, as hub ids."
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        """The table writes consecutive layers as FIRST-LAST."""
        if not isinstance(value, str):
            return value
        first, last = value.split("-")
        return tuple(range(int(first), int(last) + 1))

    @model_validator(mode="after")
    def _agrees(self) -> "KnownSAE":
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"{self.name}: layers must ascend")
        if len(self.parts) != ("{part}" in self.folder) * len(self.layers):
            raise ValueError(f"{self.name}: parts must be one for each layer, and none where folder has no {{part}}")
        if missing := set(self.default_for) - set(self.models):
            raise ValueError(f"{self.name}: default for {', '.join(missing)}, which it does not list in models")
        return self

    @property
    def pickled(self) -> bool:
        """True if its files are pickles, which only `curate sae import` reads."""
        return self.format in PICKLED

    @property
    def layer_text(self) -> str:
        """Its layers for a reader: `16`, `9, 17, 22` or `0 to 33`."""
        first, last = self.layers[0], self.layers[-1]
        if len(self.layers) > 2 and len(self.layers) == last - first + 1:
            return f"{first} to {last}"
        return ", ".join(str(layer) for layer in self.layers)

    @property
    def size_text(self) -> str | None:
        """Its size for a reader, such as `537 MB` or `2.15 GB`; None where it is not known."""
        if self.bytes is None:
            return None
        return f"{self.bytes / 1e9:.3g} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:.3g} MB"

    def fits(self, model: str) -> bool:
        """True if the last part of the model's name is that of a model in the list."""
        return last_part(model) in map(last_part, self.models)

    def folder_of(self, layer: int) -> str:
        """Folder of one layer in the repository; empty for the root.

        Raises:
            ConfigurationError: there is no SAE for this layer.
        """
        if layer not in self.layers:
            raise ConfigurationError(f"--sae {self.name}:{layer}: no such layer; its layers: {self.layer_text}")
        part = self.parts[self.layers.index(layer)] if self.parts else ""
        return self.folder.format(layer=layer, part=part)


class KnownSAEs(RootModel[tuple[KnownSAE, ...]]):
    """The whole table; what `curate saes --json` prints."""

    model_config = ConfigDict(frozen=True)


@lru_cache(maxsize=1)
def known_saes() -> tuple[KnownSAE, ...]:
    """Every SAE of the table, in its order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with libyaml
    return KnownSAEs.model_validate(yaml.load(TABLE.read_text(encoding="utf-8"), loader)).root


def known_sae(name: str) -> KnownSAE | None:
    """The SAE of this name, or None."""
    return next((sae for sae in known_saes() if sae.name == name), None)


def default_sae(model: str) -> KnownSAE | None:
    """The SAE that is taken for a model when none is named, or None; the last part of the model's name decides."""
    wanted = last_part(model)
    return next((sae for sae in known_saes() if wanted in map(last_part, sae.default_for)), None)


def named(text: str) -> tuple[KnownSAE, int] | None:
    """The SAE and the layer that `NAME` or `NAME:LAYER` stands for; None if the table has no such name.

    Raises:
        ConfigurationError: the layer is missing where there are several, or is not one of them.
    """
    name, colon, layer = text.partition(":")
    sae = known_sae(name)
    if sae is None:
        return None
    if not colon and len(sae.layers) == 1:
        return sae, sae.layers[0]
    if not (layer.isascii() and layer.isdigit()) or int(layer) not in sae.layers:
        middle = sae.layers[len(sae.layers) // 2]
        example = f"{name}:{middle}" if len(sae.layers) > 1 else name
        raise ConfigurationError(f"--sae {text}: name one of its layers ({sae.layer_text}), as in --sae {example}")
    return sae, int(layer)


def last_part(model: str) -> str:
    """The last part of a hub id or path, in lower case: what models are known by."""
    return model.rstrip("/").rpartition("/")[2].lower()
