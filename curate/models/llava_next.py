"""LLaVA-NeXT (LLaVA-1.6): a CLIP tower over image tiles, a projector, and a Mistral, Llama or Qwen2 text model."""

import contextlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import transformers  # whose attributes are imported when they are used: to look at a config takes no model's code
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor, nn

from curate.errors import ConfigurationError, ImageShape, ReservedToken, TooLong, first_line
from curate.models.family import Family, ModelInfo, ModelInputs

TEXT_MODELS = ("mistral", "llama", "qwen2")


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The text model's part of a LLaVA-NeXT config, with transformers' defaults filled in.

    Raises:
        ConfigurationError: a text model other than `TEXT_MODELS`.
    """
    text = transformers.AutoConfig.for_model(**config).text_config  # type: ignore[arg-type]
    if text.model_type not in TEXT_MODELS:
        raise ConfigurationError(f"the text model is {text.model_type}; LLaVA-NeXT is read with {TEXT_MODELS}")
    return text.to_dict()


@dataclass(frozen=True)
class LlavaNextBuilder:
    """Tokenizer and image processor of a LLaVA-NeXT model."""

    processor: "transformers.LlavaNextProcessor"
    config: "transformers.LlavaNextConfig"
    context: int
    special_tokens: tuple[str, ...]
    longest_token: int

    def build(self, image: Image, question: str, response: str | None) -> ModelInputs:
        """Inputs by the processor's own chat template and one processor call.

        Raises:
            ReservedToken: a text spells out a special token.
            ImageShape: tiling leaves no patch of the image.
            TooLong: more tokens than the context holds.
        """
        for name, text in (("question", question), ("response", response or "")):
            self._check(name, text)
        expected = self._image_tokens(image)
        turns = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
        if response is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
        encoded: Any = self.processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
        input_ids = encoded["input_ids"][0]
        is_image = input_ids == self.config.image_token_id
        if int(is_image.sum()) != expected:
            raise ImageShape(
                f"an image of {image.width} × {image.height} makes {int(is_image.sum())} image tokens for the "
                f"processor but {expected} for the model"
            )
        if len(input_ids) > self.context:
            raise TooLong(f"{len(input_ids):,} tokens; the model's context holds {self.context:,}")
        tensors = {"pixel_values": encoded["pixel_values"][0], "image_sizes": encoded["image_sizes"][0]}
        return ModelInputs(input_ids, is_image, tensors)

    def _check(self, name: str, text: str) -> None:
        """Refuse what the tokenizer would take for control tokens, or would need minutes and gigabytes to count."""
        for token in self.special_tokens:
            if token in text:
                raise ReservedToken(f"the {name} spells out the special token {token}")
        # No token covers more characters than the longest has. Templates may strip a text, and tokenizers may compose
        # its accents (NFC), but nothing else is taken away before it is cut into tokens.
        characters = len(unicodedata.normalize("NFC", text.strip()))
        if characters > self.context * self.longest_token:
            raise TooLong(
                f"the {name} has {characters:,} characters, so at least {characters // self.longest_token:,} tokens; "
                f"the model's context holds {self.context:,}"
            )

    def _image_tokens(self, image: Image) -> int:
        """How many image features the model will make, by the model's own functions on a tensor without data."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

        vision: Any = self.config.vision_config
        size = (image.height, image.width)
        side = vision.image_size // vision.patch_size
        rows, columns = get_anyres_image_grid_shape(size, self.config.image_grid_pinpoints, vision.image_size)
        grid = torch.empty(1, rows * side, columns * side, device="meta")
        height, width = unpad_image(grid, size).shape[1:]
        if height == 0 or width == 0:
            raise ImageShape(f"an image of {image.width} × {image.height} is too narrow: tiling leaves no patch of it")
        return side * side + height * (width + 1)


def load_builder(info: ModelInfo) -> LlavaNextBuilder:
    """Tokenizer and image processor; the image processor is PIL's, so that every machine makes the same pixels.

    Raises:
        ConfigurationError: the folder has no whole processor, or no chat template.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(info.path, local_files_only=True)
        processor = transformers.LlavaNextProcessor.from_pretrained(info.path, backend="pil", local_files_only=True)
    # A tokenizer or processor file may be missing, damaged, or need a library that is not there.
    except Exception as error:
        raise ConfigurationError(f"{info.path} has no whole processor: {first_line(error)}") from error
    if not processor.chat_template:
        raise ConfigurationError(f"{info.path} has no chat template (chat_template.jinja)")
    # Facts of the model, which old processor files lack; without the CLS token every count is wrong by one.
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = 1
    assert isinstance(config, transformers.LlavaNextConfig)
    tokenizer: Any = processor.tokenizer
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special_tokens = tuple(sorted({processor.image_token, *tokenizer.all_special_tokens, *special}))
    return LlavaNextBuilder(processor, config, info.context, special_tokens, max(map(len, tokenizer.get_vocab())))


@dataclass(frozen=True)
class LlavaNextCut:
    """A LLaVA-NeXT model without what lies above its hook layer."""

    model: "transformers.LlavaNextModel"
    device: str

    @torch.inference_mode()
    def hidden_states(self, batch: Sequence[ModelInputs]) -> list[Float[Tensor, "tokens d_model"]]:
        """The residual stream after the hook layer.

        Samples are padded on the right, where causal attention hides padding from every real token.
        """
        ids = nn.utils.rnn.pad_sequence([inputs.input_ids for inputs in batch], batch_first=True)
        output = self.model(
            input_ids=ids.to(self.device),
            pixel_values=torch.cat([inputs.tensors["pixel_values"] for inputs in batch]).to(
                self.device, self.model.dtype
            ),
            image_sizes=torch.stack([inputs.tensors["image_sizes"] for inputs in batch]),
            use_cache=False,
        )
        return [hidden[: len(inputs.input_ids)] for hidden, inputs in zip(output.last_hidden_state, batch, strict=True)]


def _cut_config(info: ModelInfo, hook_layer: int) -> Any:
    config: Any = transformers.AutoConfig.from_pretrained(info.path, local_files_only=True)
    config.text_config.num_hidden_layers = hook_layer + 1
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = config.text_config.layer_types[: hook_layer + 1]
    return config


def n_parameters(info: ModelInfo, hook_layer: int) -> int:
    """Parameters of what `load_model` loads, counted without loading it."""
    with torch.device("meta"):
        model = transformers.LlavaNextModel(_cut_config(info, hook_layer))
    return sum(parameter.numel() for parameter in model.parameters())


def device_map(config: "transformers.LlavaNextConfig", devices: Sequence[str]) -> dict[str, str]:
    """Which device holds which part of the model, in the order of computing, each with about as many parameters.

    All that lies before the first block is on the first device.
    """
    with torch.device("meta"):
        model = transformers.LlavaNextModel(config)
    blocks = list(model.language_model.layers)
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    before = sum(parameter.numel() for parameter in model.parameters()) - sum(sizes)
    share = (before + sum(sizes)) / len(devices)
    parts = dict.fromkeys(
        ["vision_tower", "multi_modal_projector", "image_newline", "language_model.embed_tokens"], devices[0]
    )
    parts |= {"language_model.rotary_emb": devices[0]}
    for index, middle in enumerate(
        before + done - size / 2 for done, size in zip(accumulate(sizes), sizes, strict=True)
    ):
        parts[f"language_model.layers.{index}"] = devices[min(int(middle / share), len(devices) - 1)]
    return {**parts, "language_model.norm": parts[f"language_model.layers.{len(blocks) - 1}"]}


def load_model(info: ModelInfo, hook_layer: int, dtype: torch.dtype, device: str) -> LlavaNextCut:
    """Load blocks 0 to `hook_layer` alone; the final norm is replaced by the identity.

    Where `cuda` is several GPUs, the blocks are spread over them; inputs and hidden states are on the first.

    So `last_hidden_state` is, bit for bit, the full model's `hidden_states[hook_layer + 1]`.

    Raises:
        ConfigurationError: weights are missing (they would be random, as `image_newline` once was) or damaged.
    """
    config = _cut_config(info, hook_layer)
    several = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if device == "cuda" else []
    spread: Any = {"device_map": device_map(config, several)} if len(several) > 1 else {}
    try:
        with _quiet():
            loaded: Any = transformers.LlavaNextModel.from_pretrained(
                info.path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **spread,
            )
    except Exception as error:
        # safetensors, transformers and torch each have their own errors for a damaged file.
        raise ConfigurationError(f"{info.path} cannot be loaded: {first_line(error)}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ConfigurationError(f"{info.path} lacks weights: {', '.join(missing[:5])}{' …' if missing[5:] else ''}")
    model.language_model.norm = nn.Identity()
    return LlavaNextCut(model.eval() if spread else model.eval().to(device), device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report that the weights above the cut were not used, and without its bars."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()


FAMILY = Family("llava_next", text_config, n_parameters, load_builder, load_model)
