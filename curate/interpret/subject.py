"""The model of a study, and the SAEs through which it is looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from curate.harvest.plan import device_and_dtype
from curate.models import ModelSpec
from curate.models.family import CutModel, InputBuilder, ModelInfo, WholeModel
from curate.scoring.pair import Pair, agree


@dataclass(frozen=True)
class Subject:
    """A model, and the SAEs through which it is looked at.

    Attributes:
        pairs: by the SAE's name.
    """

    model: ModelInfo
    pairs: Mapping[str, Pair]
    device: str
    dtype: torch.dtype

    @property
    def layers(self) -> list[int]:
        """The hook layers, ascending."""
        return sorted({pair.hook_layer for pair in self.pairs.values()})

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the SAEs."""
        return tuple(dict.fromkeys(note for pair in self.pairs.values() for note in pair.notes))

    def decides(self) -> dict[str, Any]:
        """What hidden states and activations depend on."""
        return {
            "model hash": self.model.sha256,
            "SAEs": {name: [pair.sae.sha256, pair.hook_layer] for name, pair in self.pairs.items()},
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def load_builder(self) -> InputBuilder:
        """Tokenizer and image processor."""
        return self.model.family.load_builder(self.model)

    def load_cut(self) -> CutModel:
        """The model up to the highest hook layer."""
        return self.model.family.load_model(self.model, self.layers[-1], self.dtype, self.device)

    def load_whole(self) -> WholeModel:
        """All of the model."""
        return self.model.family.load_whole(self.model, self.dtype, self.device)


def look_at(
    model: ModelSpec, saes: Sequence[str], hook_layer: int | None = None, allow_model_mismatch: bool = False
) -> Subject:
    """Find a model and SAEs, and check that they fit; loads no weights.

    Raises:
        ConfigurationError: they do not; the message says what to do.
        DataError: the hub cannot be reached.
    """
    pairs = {name: agree(model.name, name, hook_layer, allow_model_mismatch) for name in saes}
    device, dtype = device_and_dtype(model)
    info = replace(next(iter(pairs.values())).model, name=model.name)
    return Subject(info, pairs, device, dtype)
