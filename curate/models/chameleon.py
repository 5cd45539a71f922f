"""Chameleon, and Anole, which is built like it: one transformer over text tokens and the codes of VQ image tokens."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import transformers  # whose attributes are imported when they are used: to look at a config takes no model's code
from jaxtyping import Float
from torch import Tensor

from curate.errors import ConfigurationError
from curate.models.building import Builder, Images, builder, chat_turns, load_processor, square, template_owner
from curate.models.family import ModelInfo
from curate.models.loading import family
from curate.models.packing import Packed, to_device
from curate.models.patches import square_view


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The whole config, which is one model's, with transformers' defaults filled in.

    Raises:
        ConfigurationError: it does not say which token stands for which code of an image.
    """
    whole: Any = transformers.AutoConfig.for_model(**config)  # type: ignore[arg-type]
    if "<image>" not in (whole.vocabulary_map or {}):
        raise ConfigurationError("config.json has no vocabulary_map with <image>, so images have no tokens")
    return whole.to_dict()


def load_builder(info: ModelInfo) -> Builder:
    """Tokenizer and image processor.

    Published processors have no chat template. Then a conversation is image, question, end of turn, response, end of
    turn, as in Chameleon's own code (facebookresearch/chameleon, `chameleon/inference/chameleon.py`).

    Raises:
        ConfigurationError: the folder has no whole processor, or neither a chat template nor a token that ends a turn.
    """
    processor, config = load_processor("ChameleonProcessor", info)
    vision = config.vq_config
    side = vision.resolution // 2 ** (len(vision.channel_multiplier) - 1)
    images = Images(
        token=processor.image_token,
        token_id=config.image_token_id,
        count=square(side, side * side),
        views=lambda image: (square_view(processor.image_processor, image.size, side, 0),),
    )
    owner, end = template_owner(processor), processor.tokenizer.sep_token
    if owner is None and end is None:
        raise ConfigurationError(f"{info.path} has no chat template, and its tokenizer no sep_token, which ends a turn")

    def published(question: str, response: str | None, answer_next: bool = False) -> str:
        return f"{images.token}{question}{end}" + ("" if response is None else f"{response}{end}")

    turns = published if owner is None else chat_turns(info, owner, images.token)
    # Chameleon's own call adds an end of turn to every text; some versions of transformers cannot be told not to.
    encode = partial(transformers.ProcessorMixin.__call__, processor)
    reserved = (name for name in config.vocabulary_map if name.startswith("IMGIMG"))
    return builder(info, processor, turns, images, encode, reserved)


def with_codes(model: Any, packed: Packed) -> dict[str, Any]:
    """The ids with each image's codes in place of its placeholders.

    Images go through the VQ encoder one by one: between codes that are about as near, the batch must not decide.
    """
    ids = to_device(model.device, packed.input_ids)
    pictures = packed.tensors.get("pixel_values", ())
    if len(pictures):
        codes = [
            model.get_image_tokens(to_device(ids.device, each[None]).to(model.dtype)).flatten() for each in pictures
        ]
        ids = ids.masked_scatter(to_device(ids.device, packed.is_image), torch.cat(codes).to(ids.dtype))
    return {"input_ids": ids[None]}


def vq_codes(model: Any, packed: Packed) -> Float[Tensor, "images patches width"]:
    """What the VQ encoder says of each image's patches, before it is rounded to codes."""
    pictures = packed.tensors["pixel_values"]
    found = [
        model.vqmodel.quant_conv(model.vqmodel.encoder(to_device(model.device, each[None]).to(model.dtype)))
        for each in pictures
    ]
    return torch.cat(found).flatten(2).transpose(1, 2)


FAMILY = family("chameleon", text_config, load_builder, with_codes, tower=vq_codes)
