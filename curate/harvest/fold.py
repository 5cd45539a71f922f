"""An SAE's open activation scale settled on a model: measured whether it is folded, and estimated if it is not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from curate.errors import ConfigurationError
from curate.harvest.activations import Harvest
from curate.harvest.reading import all_chunks
from curate.sae.copy import with_layer
from curate.sae.dictionary import DictionaryInfo
from curate.sae.formats.sae_lens import OPEN
from curate.sae.reading import Reading
from curate.sae.scale import estimate_scale


@dataclass(frozen=True)
class Settled:
    """An SAE whose scale is known now.

    Attributes:
        info: with its scale.
        facts: what its copy's metadata say of it.
    """

    info: DictionaryInfo
    reading: Reading
    facts: Mapping[str, object]


def check_open(info: DictionaryInfo) -> None:
    """Check that there is a scale to find out.

    Raises:
        ConfigurationError: it is known.
    """
    if info.scale is None:
        return
    normalize = info.config["normalize_activations"]
    raise ConfigurationError(
        f"{info.name}: its activation scale {info.scale:.6g} is known, and folded in whenever it is loaded; to write a "
        f"copy that has it in its weights: curate sae import {info.name} --output DIR"
        if normalize == OPEN or info.scale != 1
        else f"{info.name}: there is no scale to fold, normalize_activations is {normalize}"
    )


def check_unfolded(info: DictionaryInfo, reading: Reading) -> None:
    """Check that a scale is not folded twice.

    Raises:
        ConfigurationError: it is folded already.
    """
    if reading.taken == "folded":
        raise ConfigurationError(
            f"{info.name}: its activation scale is folded into its weights already ({reading.figures}); to write a "
            f"copy that says so: curate sae import {info.name} --on MODEL --output DIR"
        )


def settle(info: DictionaryInfo, reading: Reading, harvest: Harvest, source: Mapping[str, object]) -> Settled:
    """Take the reading that was measured; where it is unfolded, estimate the scale over all rows.

    Args:
        source: model and data of the harvest, for the record.
    """
    info = with_layer(info, harvest.hook_layer)
    facts: dict[str, object] = {"activation_scale_reading": {**source, **reading.model_dump(mode="json")}}
    if reading.taken == "folded":
        return Settled(replace(info, scale=1.0), reading, facts)
    scale, tokens = estimated(harvest)
    facts |= {"activation_scale": scale, "activation_scale_estimated_from": {**source, "tokens": tokens}}
    return Settled(replace(info, scale=scale), reading, facts)


@torch.inference_mode()
def estimated(harvest: Harvest) -> tuple[float, int]:
    """The activation scale over all rows of a harvest, and how many tokens that were.

    Raises:
        ConfigurationError: as `estimate_scale`.
    """
    tokens = 0

    def counted() -> Iterator[Float[Tensor, "tokens d_model"]]:
        nonlocal tokens
        for _, chunk in all_chunks(harvest):
            tokens += len(chunk.hidden)
            yield chunk.hidden

    return estimate_scale(counted()), tokens
