"""LLaVA-1.5: a CLIP tower over one square picture, a projector, and a text model; LLaVA-Gemma is of this family."""

from collections.abc import Mapping

from curate.errors import ConfigurationError
from curate.models.building import Builder, Images, builder, chat_turns, load_processor, square, template_owner
from curate.models.family import ModelInfo
from curate.models.loading import clip_tower, family, text_part
from curate.models.patches import square_view

TEXT_MODELS = ("llama", "mistral", "gemma", "qwen2")
TOWER = "clip_vision_model"


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The text model's part of a LLaVA config, with transformers' defaults filled in.

    Raises:
        ConfigurationError: a text model other than `TEXT_MODELS`, or a vision tower other than CLIP's.
    """
    vision = config.get("vision_config")
    tower = vision.get("model_type", TOWER) if isinstance(vision, dict) else TOWER
    if tower != TOWER:
        raise ConfigurationError(f"the vision tower is {tower}; LLaVA is read with {TOWER}")
    return text_part(config, "LLaVA", TEXT_MODELS)


def load_builder(info: ModelInfo) -> Builder:
    """Tokenizer and image processor; where the processor has no chat template, the tokenizer's is used.

    Raises:
        ConfigurationError: the folder has no whole processor, or no chat template.
    """
    processor, config = load_processor("LlavaProcessor", info)
    owner = template_owner(processor)
    if owner is None:
        raise ConfigurationError(f"{info.path} has no chat template (chat_template.jinja)")
    # Facts of the model, which old processor files lack; without the CLS token every count is wrong by one.
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = 1
    side = config.vision_config.image_size // config.vision_config.patch_size
    with_cls = config.vision_feature_select_strategy == "full"
    images = Images(
        token=processor.image_token,
        token_id=config.image_token_id,
        count=square(side, side * side + with_cls),
        views=lambda image: (square_view(processor.image_processor, image.size, side, int(with_cls)),),
    )
    return builder(info, processor, chat_turns(info, owner, images.token), images)


FAMILY = family("llava", text_config, load_builder, tower=clip_tower)
