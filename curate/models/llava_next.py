"""LLaVA-NeXT (LLaVA-1.6): a CLIP tower over image tiles, a projector, and a Mistral, Llama or Qwen2 text model."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from curate.errors import ConfigurationError, ImageShape
from curate.models.building import Builder, Images, builder, chat_turns, load_processor
from curate.models.family import ModelInfo
from curate.models.loading import clip_tower, family, text_part
from curate.models.patches import Box, View

TEXT_MODELS = ("mistral", "llama", "qwen2")


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The text model's part of a LLaVA-NeXT config, with transformers' defaults filled in.

    Raises:
        ConfigurationError: a text model other than `TEXT_MODELS`.
    """
    return text_part(config, "LLaVA-NeXT", TEXT_MODELS)


def load_builder(info: ModelInfo) -> Builder:
    """Tokenizer and image processor.

    Raises:
        ConfigurationError: the folder has no whole processor, or no chat template.
    """
    processor, config = load_processor("LlavaNextProcessor", info)
    if not processor.chat_template:
        raise ConfigurationError(f"{info.path} has no chat template (chat_template.jinja)")
    # Facts of the model, which old processor files lack; without the CLS token every count is wrong by one.
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = 1
    images = Images(
        token=processor.image_token,
        token_id=config.image_token_id,
        count=partial(_image_tokens, config),
        views=partial(_views, config),
        tensors=partial(_tiles, config),
    )
    return builder(info, processor, chat_turns(info, processor, images.token), images)


class _Grid(NamedTuple):
    """The patches of an image's tiles: all of them, and those that are left once padding is cut away."""

    padded: tuple[int, int]
    left: tuple[int, int]


def _grid(config: Any, image: Image) -> _Grid:
    """Rows and columns by the model's own functions, on a tensor without data."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    vision = config.vision_config
    size = (image.height, image.width)
    side = vision.image_size // vision.patch_size
    rows, columns = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, vision.image_size)
    padded = (rows * side, columns * side)
    height, width = unpad_image(torch.empty(1, *padded, device="meta"), size).shape[1:]
    if height == 0 or width == 0:
        raise ImageShape(f"an image of {image.width} × {image.height} is too narrow: tiling leaves no patch of it")
    return _Grid(padded, (height, width))


def _image_tokens(config: Any, image: Image) -> int:
    """How many image features the model will make."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    height, width = _grid(config, image).left
    return side * side + height * (width + 1)


def _views(config: Any, image: Image) -> tuple[View, View]:
    """The whole image squeezed into a square, then its tiles, in rows that each end with a separator.

    Tiles show the image scaled with its proportions and padded on all sides alike, in whole pixels; the model cuts the
    padding away in whole patches, so that a rim of it, or of the image, may be left or lost.
    """
    from transformers.image_processing_utils import get_patch_output_size
    from transformers.image_utils import ChannelDimension

    vision = config.vision_config
    side, patch = vision.image_size // vision.patch_size, vision.patch_size
    (rows, columns), (height, width) = _grid(config, image)
    target = (rows * patch, columns * patch)
    like = np.broadcast_to(False, (1, image.height, image.width))
    scaled_height, scaled_width = get_patch_output_size(like, target, ChannelDimension.FIRST)

    def edges(cells: int, kept: int, scaled: int, size: int) -> tuple[float, float]:
        padding = (cells * patch - scaled) // 2
        first = (cells - kept) // 2
        start, stop = (cell * patch - padding for cell in (first, first + kept))
        return start * size / scaled, stop * size / scaled

    top, bottom = edges(rows, height, scaled_height, image.height)
    left, right = edges(columns, width, scaled_width, image.width)
    whole = View(Box(0, 0, image.width, image.height), side, side, 0, side)
    return whole, View(Box(left, top, right, bottom), height, width, side * side, width + 1)


def _tiles(config: Any, encoded: Mapping[str, Any], images: Sequence[Image]) -> dict[str, Tensor]:
    """All images' tiles one after another, without those that the processor adds to make their numbers equal."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = encoded["image_sizes"]
    tiles = [
        tiles[: image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)]
        for tiles, size in zip(encoded["pixel_values"], sizes.tolist(), strict=True)
    ]
    return {"pixel_values": torch.cat(tiles), "image_sizes": sizes}


FAMILY = family("llava_next", text_config, load_builder, tower=clip_tower)
