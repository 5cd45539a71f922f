"""What the families share on the device side: models loaded up to a layer or whole, and run."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import transformers  # whose attributes are imported when they are used: to look at a config takes no model's code
from jaxtyping import Float, Int
from torch import Tensor, nn

from curate.errors import ConfigurationError, first_line
from curate.models.family import Edit, Family, InputBuilder, ModelInfo, Reading
from curate.models.inputs import ModelInputs
from curate.models.packing import Packed, pack, packed_arguments, run_packed, to_device

# From the model and packed texts, what the model takes for ids and images.
Arguments = Callable[[Any, Packed], dict[str, Any]]
# From the model and packed texts, [images, patches, width].
Tower = Callable[[Any, Packed], Tensor]


def text_part(config: Mapping[str, object], title: str, text_models: Sequence[str]) -> Mapping[str, object]:
    """The text model's part of a config, with transformers' defaults filled in.

    Raises:
        ConfigurationError: a text model other than `text_models`.
    """
    text = transformers.AutoConfig.for_model(**config).get_text_config()  # type: ignore[arg-type]
    if text.model_type not in text_models:
        raise ConfigurationError(f"the text model is {text.model_type}; {title} is read with {text_models}")
    return text.to_dict()


def ids_and_tensors(model: Any, packed: Packed) -> dict[str, Any]:
    """The ids, and the images' tensors as they are."""
    arguments: dict[str, Any] = {"input_ids": to_device(model.device, packed.input_ids)[None]}
    for name, tensor in packed.tensors.items():
        # Whole numbers are sizes, from which the model makes shapes: they are read on the CPU.
        arguments[name] = to_device(model.device, tensor).to(model.dtype) if tensor.is_floating_point() else tensor
    return arguments


@dataclass(frozen=True)
class Cut:
    """A model without what lies above its hook layer."""

    model: Any
    device: str
    arguments: Arguments
    of_tower: Tower | None

    @torch.inference_mode()
    def hidden_states(self, packed: Packed) -> Float[Tensor, "tokens d_model"]:
        """The residual stream after the hook layer."""
        arguments = {**self.arguments(self.model, packed), **packed_arguments(packed, self.device)}
        return self.model(**arguments).last_hidden_state[0]

    @torch.inference_mode()
    def hidden_states_after(
        self, packed: Packed, layers: Collection[int]
    ) -> dict[int, Float[Tensor, "tokens d_model"]]:
        """The residual stream after each of some blocks, from one forward pass."""
        caught: dict[int, Tensor] = {}

        def catch(layer: int) -> Callable[..., None]:
            def keep(_block: nn.Module, _inputs: Any, output: Any) -> None:
                caught[layer] = _stream(output)[0].to(self.device)

            return keep

        with contextlib.ExitStack() as hooks:
            for layer in layers:
                hooks.enter_context(_decoder(self.model).layers[layer].register_forward_hook(catch(layer)))
            self.hidden_states(packed)
        return caught

    @torch.inference_mode()
    def tower(self, packed: Packed) -> Float[Tensor, "images patches width"]:
        """What the vision tower itself says of each image's patches, at its lowest resolution."""
        assert self.of_tower is not None, "a text model has no vision tower"
        return self.of_tower(self.model, packed)


@dataclass(frozen=True)
class Whole:
    """A model with all its blocks and its head."""

    model: Any
    device: str
    arguments: Arguments

    @torch.inference_mode()
    def logits(
        self, inputs: ModelInputs, hook_layer: int | None = None, edit: Edit | None = None
    ) -> Float[Tensor, "tokens vocabulary"]:
        """The model's logits, with `edit` in place of the residual stream after block `hook_layer`, if given."""
        arguments = self.arguments(self.model, pack([inputs]))
        with self._edited(hook_layer, edit, lambda stream, edit: edit(stream[0], inputs.is_image)[None]):
            return self.model(**arguments, use_cache=False).logits[0]

    @contextlib.contextmanager
    def _edited(
        self, hook_layer: int | None, edit: Edit | None, edited: Callable[[Tensor, Edit], Tensor]
    ) -> Iterator[None]:
        """Let what `edited` makes of the residual stream, [texts, tokens, d_model], stand in its place."""
        if edit is None:
            yield
            return
        assert hook_layer is not None, "an edit without its layer"

        def replace(_block: nn.Module, _inputs: Any, output: Any) -> Any:
            stream = edited(_stream(output), edit)
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        with _decoder(self.model).layers[hook_layer].register_forward_hook(replace):
            yield

    @torch.inference_mode()
    def read(self, packed: Packed, hook_layer: int, edit: Edit | None = None) -> Reading:
        """One forward pass: hidden states after the hook layer, and log-probabilities of the responses' tokens.

        Logits are made only where a response's token is said. With `edit`, which takes texts packed as they are, what
        it makes of these hidden states stands in their place.
        """
        caught: list[Float[Tensor, "1 tokens d_model"]] = []

        def catch(_block: nn.Module, _inputs: Any, output: Any) -> None:
            # A model that is spread over several GPUs has this block on one of them, and its head on the first.
            caught.append(_stream(output).to(self.device))

        responses = list(zip(packed.places, packed.n_responses, strict=True))
        said = [places[len(places) - n :] for places, n in responses]
        # A token's probability stands at the position before it.
        before = [places[len(places) - n - 1 : -1] for places, n in responses]
        with (
            _decoder(self.model).layers[hook_layer].register_forward_hook(catch),
            self._edited(hook_layer, edit, lambda stream, edit: edit(stream[0], packed.is_image)[None]),
        ):
            arguments = {**self.arguments(self.model, packed), **packed_arguments(packed, self.device)}
            logits = self.model(**arguments, logits_to_keep=torch.cat(before)).logits[0]
        log_probabilities = []
        for places, part in zip(said, logits.split([len(places) for places in said]), strict=True):
            ids = packed.input_ids[places].to(part.device)
            log_probabilities.append(part.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0])
        return Reading(caught[0][0], log_probabilities)

    @torch.inference_mode()
    def generate(
        self, batch: Sequence[ModelInputs], max_new_tokens: int, hook_layer: int | None = None, edit: Edit | None = None
    ) -> list[Int[Tensor, " answer"]]:
        """The model's answers to prompts, always its likeliest token, each up to and without the end.

        Prompts are padded on the left, where the attention mask hides padding. With `edit`, what it makes of each
        text's residual stream after block `hook_layer` stands in its place: of the prompt at once, then of each token
        that is said; padding is left as it is.
        """
        alone = [self.arguments(self.model, pack([each])) for each in batch]
        ids = [arguments.pop("input_ids")[0] for arguments in alone]
        rows = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_side="left")
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True, padding_side="left")
        tensors = {name: torch.cat([each[name] for each in alone if name in each]) for name in alone[0]}
        ends = self.model.generation_config.eos_token_id
        ends = self.model.config.get_text_config().eos_token_id if ends is None else ends
        settings = transformers.GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=0
        )

        def edited(stream: Tensor, edit: Edit) -> Tensor:
            stream = stream.clone()
            for row, inputs in enumerate(batch):
                # All of the prompt in the first pass, and one token in each that follows.
                is_image = torch.zeros(stream.shape[1], dtype=torch.bool) if begun else inputs.is_image
                tokens = slice(stream.shape[1] - len(is_image), None)
                stream[row, tokens] = edit(stream[row, tokens], is_image)
            begun.append(True)
            return stream

        begun: list[bool] = []
        with _quiet(), self._edited(hook_layer, edit, edited):
            output = self.model.generate(input_ids=rows, attention_mask=mask, generation_config=settings, **tensors)
        ends = torch.tensor([] if ends is None else ends, device=output.device).reshape(-1)
        answers = []
        for said in output[:, rows.shape[1] :]:
            stops = torch.isin(said, ends).nonzero()
            answers.append(said[: stops[0, 0] if len(stops) else None].cpu())
        return answers


def family(
    model_type: str,
    text_config: Callable[[Mapping[str, object]], Mapping[str, object]],
    load_builder: Callable[[ModelInfo], InputBuilder],
    arguments: Arguments = ids_and_tensors,
    takes_images: bool = True,
    tower: Tower | None = None,
) -> Family:
    """A family whose models are transformers' own, loaded as all are.

    Args:
        arguments: what its models are called with.
        tower: what the vision tower says; None for text models.
    """
    return Family(
        model_type=model_type,
        text_config=text_config,
        n_parameters=n_parameters,
        load_builder=load_builder,
        load_model=partial(load_cut, arguments=arguments, tower=tower),
        load_whole=partial(load_whole, arguments=arguments),
        takes_images=takes_images,
    )


def clip_tower(model: Any, packed: Packed) -> Float[Tensor, "images patches width"]:
    """What the projector takes of each whole image, before which a tiled image's tiles are left out."""
    pixels, config = packed.tensors["pixel_values"], model.config
    tiles = packed.tensors.get("image_sizes")
    if tiles is not None:
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        edge = config.vision_config.image_size
        counts = [image_size_to_num_patches(size, config.image_grid_pinpoints, edge) for size in tiles.tolist()]
        pixels = pixels[[0, *accumulate(counts[:-1])]]
    states = model.vision_tower(
        to_device(model.device, pixels).to(model.dtype), output_hidden_states=True
    ).hidden_states
    layers = config.vision_feature_layer
    found = torch.cat([states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1)
    return found[:, 1:] if config.vision_feature_select_strategy == "default" else found


def load_cut(
    info: ModelInfo, hook_layer: int, dtype: torch.dtype, device: str, *, arguments: Arguments, tower: Tower | None
) -> Cut:
    """Load blocks 0 to `hook_layer` alone; the final norm is replaced by the identity.

    Where `cuda` is several GPUs, the blocks are spread over them; inputs and hidden states are on the first.

    So `last_hidden_state` is, bit for bit, the full model's `hidden_states[hook_layer + 1]`.

    Raises:
        ConfigurationError: weights are missing (they would be random, as `image_newline` once was) or damaged.
    """
    model = _load(transformers.AutoModel, info, _cut_config(info, hook_layer), dtype, device)
    decoder = _decoder(model)
    setattr(decoder, _final_norm(decoder), nn.Identity())
    return Cut(model, device, arguments, tower)


def load_whole(info: ModelInfo, dtype: torch.dtype, device: str, *, arguments: Arguments) -> Whole:
    """Load all of a model; where `cuda` is several GPUs, its blocks are spread over them, its head is on the first.

    Raises:
        ConfigurationError: weights are missing or damaged.
    """
    sees = info.family.takes_images
    heads = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    return Whole(_load(heads, info, _config(info), dtype, device), device, arguments)


def n_parameters(info: ModelInfo, hook_layer: int) -> int:
    """Parameters of what `load_model` loads, counted without loading it."""
    model = _without_data(transformers.AutoModel, _cut_config(info, hook_layer))
    return sum(parameter.numel() for parameter in model.parameters())


def device_map(model: nn.Module, devices: Sequence[str]) -> dict[str, str]:
    """Which device holds which part of the model, in the order of computing, each with about as many parameters.

    All that lies before the first block, and the head, is on the first device.

    Args:
        model: cut or whole; needs no data.
    """
    decoder = _decoder(model)
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in decoder.layers]
    before = sum(parameter.numel() for parameter in model.parameters()) - sum(sizes)
    share = (before + sum(sizes)) / len(devices)
    parts: dict[str, str] = {}
    way = next(name for name, module in model.named_modules() if module is decoder)
    place, prefix = model, ""
    for step in [*filter(None, way.split(".")), "layers"]:
        pieces = [*place.named_children(), *place.named_parameters(recurse=False)]
        parts |= {f"{prefix}{name}": devices[0] for name, _ in pieces if name != step}
        place, prefix = getattr(place, step), f"{prefix}{step}."
    for index, middle in enumerate(
        before + done - size / 2 for done, size in zip(accumulate(sizes), sizes, strict=True)
    ):
        parts[f"{prefix}{index}"] = devices[min(int(middle / share), len(devices) - 1)]
    return {**parts, f"{prefix.removesuffix('layers.')}{_final_norm(decoder)}": parts[f"{prefix}{len(sizes) - 1}"]}


def _load(heads: Any, info: ModelInfo, config: Any, dtype: torch.dtype, device: str) -> Any:
    several = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if device == "cuda" else []
    spread: Any = {"device_map": device_map(_without_data(heads, config), several)} if len(several) > 1 else {}
    try:
        with _quiet():
            model, report = heads.from_pretrained(
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
    if missing := sorted(report["missing_keys"]):
        raise ConfigurationError(f"{info.path} lacks weights: {', '.join(missing[:5])}{' …' if missing[5:] else ''}")
    run_packed(_decoder(model))
    return model.eval() if spread else model.eval().to(device)


def _config(info: ModelInfo) -> Any:
    return transformers.AutoConfig.from_pretrained(info.path, local_files_only=True)


def _cut_config(info: ModelInfo, hook_layer: int) -> Any:
    config = _config(info)
    text = config.get_text_config()
    text.num_hidden_layers = hook_layer + 1
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: hook_layer + 1]
    return config


def _without_data(heads: Any, config: Any) -> Any:
    with torch.device("meta"):
        return heads.from_config(config)


def _decoder(model: Any) -> Any:
    """The module that holds the blocks, in a model with or without a head, with or without a vision tower."""
    return getattr(model.base_model, "language_model", model.base_model)


def _stream(output: Any) -> Float[Tensor, "texts tokens d_model"]:
    """The residual stream after a block; some return it alone, some a tuple that begins with it."""
    return output[0] if isinstance(output, tuple) else output


def _final_norm(decoder: Any) -> str:
    return next(name for name in ("norm", "final_layer_norm") if hasattr(decoder, name))


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
