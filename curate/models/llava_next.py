"""LLaVA-NeXT (LLaVA-1.6): a CLIP tower over image tiles, a projector, and a Mistral, Llama or Qwen2 text model."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from curate.errors import ConfigurationError, ImageShape
from curate.models.building import Builder, Images, builder, chat_turns, load_processor
from curate.models.family import ModelInfo
from curate.models.loading import family, text_part

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
        tensors=partial(_tiles, config),
    )
    return builder(info, processor, chat_turns(info, processor, images.token), images)


def _image_tokens(config: Any, image: Image) -> int:
    """How many image features the model will make, by the model's own functions on a tensor without data."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

    vision = config.vision_config
    size = (image.height, image.width)
    side = vision.image_size // vision.patch_size
    rows, columns = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, vision.image_size)
    grid = torch.empty(1, rows * side, columns * side, device="meta")
    height, width = unpad_image(grid, size).shape[1:]
    if height == 0 or width == 0:
        raise ImageShape(f"an image of {image.width} × {image.height} is too narrow: tiling leaves no patch of it")
    return side * side + height * (width + 1)


def _tiles(config: Any, encoded: Mapping[str, Any], images: Sequence[Image]) -> dict[str, Tensor]:
    """All images' tiles one after another, without those that the processor adds to make their numbers equal."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    sizes = encoded["image_sizes"]
    tiles = [
        tiles[: image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)]
        for tiles, size in zip(encoded["pixel_values"], sizes.tolist(), strict=True)
    ]
    return {"pixel_values": torch.cat(tiles), "image_sizes": sizes}


FAMILY = family("llava_next", text_config, load_builder)
