"""Texts of several samples as one sequence: no padding, and what several of them begin with is in it once.

A model runs such a sequence like any other but for its attention, which goes segment by segment: the tokens of a
segment see themselves and the segments before theirs. So no mask of tokens × tokens is ever made, and keys and values
of a shared beginning are computed once.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
import transformers  # whose attributes are imported when they are used
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from curate.errors import ConfigurationError
from curate.models.inputs import ModelInputs

# A shared beginning shorter than this saves less than one more segment costs.
FEWEST_SHARED = 16
_PACKED = "packed_"


@dataclass(frozen=True, eq=False)
class Segment:
    """Tokens that stand together in every text that has them: packed[start:stop].

    Attributes:
        before: the segments that come before it in its texts, from the first on.
    """

    start: int
    stop: int
    before: tuple["Segment", ...] = ()

    def __len__(self) -> int:
        """Its tokens."""
        return self.stop - self.start

    @property
    def tokens(self) -> slice:
        """Where its tokens are in the packed sequence."""
        return slice(self.start, self.stop)

    @property
    def path(self) -> tuple["Segment", ...]:
        """The text that ends with it."""
        return (*self.before, self)


@dataclass(frozen=True)
class Packed:
    """Texts as one sequence.

    Attributes:
        position_ids: each token's place in its own texts.
        tensors: of the images, one after another in the order of their tokens.
        segments: in the order of their tokens.
        ends: the last segment of each text.
        n_responses: how many of each text's last tokens are a response.
    """

    input_ids: Int[Tensor, " tokens"]
    is_image: Bool[Tensor, " tokens"]
    position_ids: Int[Tensor, " tokens"]
    tensors: dict[str, Tensor]
    segments: tuple[Segment, ...]
    ends: tuple[Segment, ...]
    n_responses: tuple[int, ...]

    def __len__(self) -> int:
        """The tokens that are run."""
        return len(self.input_ids)

    @property
    def places(self) -> list[Int[Tensor, " text"]]:
        """Where the tokens of each text are."""
        return [torch.cat([torch.arange(part.start, part.stop) for part in end.path]) for end in self.ends]


def pack(texts: Sequence[ModelInputs]) -> Packed:
    """Pack texts; those about one image share it, with all that they have in common before and after it."""
    segments, owners, ends = _segments(texts)
    ids, is_image, positions = [], [], []
    for segment, owner in zip(segments, owners, strict=True):
        first = sum(map(len, segment.before))
        place = slice(first, first + len(segment))
        ids.append(texts[owner].input_ids[place])
        is_image.append(texts[owner].is_image[place])
        positions.append(torch.arange(place.start, place.stop))
    seen = [texts[owner].tensors for segment, owner in zip(segments, owners, strict=True) if not segment.before]
    names = {name: None for tensors in seen for name in tensors}
    return Packed(
        input_ids=torch.cat(ids),
        is_image=torch.cat(is_image),
        position_ids=torch.cat(positions),
        tensors={name: torch.cat([tensors[name] for tensors in seen if name in tensors]) for name in names},
        segments=tuple(segments),
        ends=tuple(ends),
        n_responses=tuple(text.n_response for text in texts),
    )


def packed_tokens(texts: Sequence[ModelInputs]) -> int:
    """How many tokens of these texts are run."""
    return sum(map(len, _segments(texts)[0]))


def _segments(texts: Sequence[ModelInputs]) -> tuple[list[Segment], list[int], list[Segment]]:
    """The segments, for each the number of a text that has it, and for each text its last segment."""
    segments: list[Segment] = []
    owners: list[int] = []
    ends: dict[int, Segment] = {}
    groups: deque[tuple[list[int], tuple[Segment, ...]]] = deque((members, ()) for members in _about_one_image(texts))
    while groups:
        members, before = groups.popleft()
        first = sum(map(len, before))
        stop = first + _common([texts[member].input_ids[first:] for member in members])
        start = segments[-1].stop if segments else 0
        segment = Segment(start, start + stop - first, before)
        segments.append(segment)
        owners.append(members[0])
        alike: dict[tuple[int, ...], list[int]] = {}
        for member in members:
            rest = texts[member].input_ids[stop : stop + FEWEST_SHARED]
            if len(rest) == 0:
                ends[member] = segment
            else:
                alike.setdefault(tuple(rest.tolist()), []).append(member)
        groups.extend((group, segment.path) for group in alike.values())
    return segments, owners, [ends[index] for index in range(len(texts))]


def _about_one_image(texts: Sequence[ModelInputs]) -> list[list[int]]:
    """The numbers of texts that are alike up to the end of one image; others are by themselves."""
    groups: dict[object, list[int]] = {}
    for index, text in enumerate(texts):
        places = text.is_image.nonzero()[:, 0] if text.image is not None else []
        alike = (text.image, *text.input_ids[: int(places[-1]) + 1].tolist()) if len(places) else index
        groups.setdefault(alike, []).append(index)
    return list(groups.values())


def _common(texts: Sequence[Int[Tensor, " tokens"]]) -> int:
    """How many tokens all these begin with."""
    first, *others = texts
    shared = min(map(len, texts))
    for other in others:
        differs = (first[:shared] != other[:shared]).nonzero()
        shared = int(differs[0]) if len(differs) else shared
    return shared


def run_packed(decoder: Any) -> None:
    """Let a decoder take `packed_arguments`; without them it runs as before.

    Raises:
        ConfigurationError: transformers cannot change this model's attention.
    """
    plain = decoder.config._attn_implementation
    transformers.AttentionInterface.register(f"{_PACKED}{plain}", partial(_attention, plain=plain))
    masks = transformers.AttentionMaskInterface
    masks.register(f"{_PACKED}{plain}", masks()[plain])
    decoder.set_attn_implementation(f"{_PACKED}{plain}")
    if decoder.config._attn_implementation != f"{_PACKED}{plain}":
        raise ConfigurationError(f"the attention of {type(decoder).__name__} cannot be changed, so texts not be packed")


def to_device(device: torch.device | str, tensor: Tensor) -> Tensor:
    """A tensor of the CPU on the device; a GPU's copy is under way while the CPU goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor


def packed_arguments(packed: Packed, device: str) -> dict[str, Any]:
    """What a decoder that runs packed sequences is called with, beside ids or embeddings."""
    return {
        "position_ids": to_device(device, packed.position_ids)[None],
        # Returned as it is by transformers' own makers of masks. Were it ever used, no token would see another.
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device),
        "segments": packed.segments,
        # A function, for where a model is spread over several GPUs, dicts would be copied from layer to layer.
        "mask_of": cache(_mask),
        "use_cache": False,
    }


def _attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens width"],
    key: Float[Tensor, "1 kv_heads tokens width"],
    value: Float[Tensor, "1 kv_heads tokens width"],
    attention_mask: Tensor | None,
    *,
    plain: str,
    segments: Sequence[Segment] | None = None,
    mask_of: Callable[..., Tensor | None] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 tokens heads width"], None]:
    """transformers' own attention, segment by segment."""
    # What transformers calls eager is of each model's own file, and cannot do without a mask.
    eager = plain == "eager"
    attend = (
        import_module(type(module).__module__).eager_attention_forward
        if eager
        else transformers.AttentionInterface()[plain]
    )
    if segments is None:
        return attend(module, query, key, value, attention_mask, sliding_window=sliding_window, **kwargs)
    assert mask_of is not None, "segments without their masks"
    found = []
    for segment in segments:
        keys, values = (_together([each[:, :, part.tokens] for part in segment.path]) for each in (key, value))
        mask = mask_of(segment, sliding_window, query.device, query.dtype if eager else None)
        found.append(attend(module, query[:, :, segment.tokens], keys, values, mask, **kwargs)[0])
    return _together(found, dim=1), None


def _together(parts: Sequence[Tensor], dim: int = 2) -> Tensor:
    return torch.cat(list(parts), dim=dim) if len(parts) > 1 else parts[0]


def _mask(
    segment: Segment, sliding_window: int | None, device: torch.device, dtype: torch.dtype | None
) -> Tensor | None:
    """Which tokens of its text, up to its end, each token of a segment sees: [1, 1, segment, text].

    None where each sees all before it in the segment, which attention can do without a mask.

    Args:
        dtype: for a mask that is added to the logits of attention; the mask is boolean without.
    """
    if dtype is None and not segment.before and (sliding_window is None or len(segment) <= sliding_window):
        return None
    n = sum(map(len, segment.path))
    distance = torch.arange(n - len(segment), n, device=device)[:, None] - torch.arange(n, device=device)
    visible = (distance >= 0) if sliding_window is None else (distance >= 0) & (distance < sliding_window)
    if dtype is not None:
        visible = torch.where(visible, 0.0, torch.finfo(dtype).min).to(dtype)
    return visible[None, None]
