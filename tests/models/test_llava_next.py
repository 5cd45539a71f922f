"""The cut model against the whole one, for every text backbone; image tokens against an independent count."""

import json
import random
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextModel,
    MistralConfig,
    Qwen2Config,
)

from curate import demo
from curate.errors import ConfigurationError, DataError, ImageShape, ReservedToken, TooLong
from curate.models.families import inspect_model
from curate.models.loading import device_map
from curate.models.packing import pack

BACKBONES = {"mistral": MistralConfig, "llama": LlamaConfig, "qwen2": Qwen2Config}
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


@pytest.fixture(scope="module", params=BACKBONES)
def folder(request, tmp_path_factory):
    """A random model with the demo's tokenizer and processor."""
    return make_model(tmp_path_factory.mktemp(request.param), BACKBONES[request.param])


def make_model(path, backbone):
    for file in demo.MODEL.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, path)
    processor = json.loads((path / "processor_config.json").read_text())
    processor["image_processor"]["image_grid_pinpoints"] = PINPOINTS
    (path / "processor_config.json").write_text(json.dumps(processor))
    old = json.loads((demo.MODEL / "config.json").read_text())
    config = LlavaNextConfig(
        text_config=backbone(
            vocab_size=old["text_config"]["vocab_size"],
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=600,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
        ),
        image_token_id=old["image_token_index"],
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    LlavaNextForConditionalGeneration(config).save_pretrained(path)
    return path


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = random.Random(seed)
    return Image.frombytes("RGB", (width, height), rng.randbytes(width * height * 3))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_devices_hold_every_part_once_in_order_and_alike(folder, count):
    """Which cannot be run here: the map alone is checked."""
    config = LlavaNextConfig.from_pretrained(folder)
    devices = [f"cuda:{index}" for index in range(count)]
    with torch.device("meta"):
        model = LlavaNextModel(config)
    parts = device_map(model, devices)
    sizes = dict.fromkeys(devices, 0)
    for name, parameter in model.named_parameters():
        (part,) = [part for part in parts if name == part or name.startswith(f"{part}.")]
        sizes[parts[part]] += parameter.numel()
    blocks = [parts[f"language_model.layers.{index}"] for index in range(config.text_config.num_hidden_layers)]
    assert blocks == sorted(blocks)
    assert parts["vision_tower"] == parts["language_model.embed_tokens"] == devices[0]
    assert parts["language_model.norm"] == blocks[-1]
    largest = max(sum(p.numel() for p in block.parameters()) for block in model.language_model.layers)
    before = sum(p.numel() for p in model.parameters()) - largest * len(blocks)
    assert max(sizes.values()) <= max(before, sum(sizes.values()) / count) + largest


@pytest.mark.parametrize("hook_layer", [0, 2, 4])
def test_hidden_states_are_the_whole_models_bit_for_bit(folder, hook_layer):
    info = inspect_model(str(folder))
    cut = info.family.load_model(info, hook_layer, torch.float32, "cpu")
    assert len(cut.model.language_model.layers) == hook_layer + 1
    builder = info.family.load_builder(info)
    whole = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    for seed, size in enumerate([(64, 48), (31, 200), (300, 90)]):
        inputs = builder.build(picture(*size, seed), "What is this?", "Noise, and a long answer about it.")
        with torch.no_grad():
            expected = whole(
                input_ids=inputs.input_ids[None],
                pixel_values=inputs.tensors["pixel_values"][None],
                image_sizes=inputs.tensors["image_sizes"],
                output_hidden_states=True,
            ).hidden_states
        # The last entry is after the final norm; a hook on the block gives what is before it.
        if hook_layer + 1 < len(expected) - 1:
            assert torch.equal(cut.hidden_states(pack([inputs])), expected[hook_layer + 1][0])
        else:
            assert torch.equal(cut.hidden_states(pack([inputs])), last_block_output(whole, inputs))


def last_block_output(whole, inputs) -> torch.Tensor:
    caught = []
    hook = whole.model.language_model.layers[-1].register_forward_hook(lambda _m, _i, output: caught.append(output))
    with torch.no_grad():
        whole(
            input_ids=inputs.input_ids[None],
            pixel_values=inputs.tensors["pixel_values"][None],
            image_sizes=inputs.tensors["image_sizes"],
        )
    hook.remove()
    output = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
    return output.reshape(-1, output.shape[-1])


def test_samples_that_are_packed_do_not_see_each_other(folder):
    info = inspect_model(str(folder))
    cut, builder = info.family.load_model(info, 2, torch.float32, "cpu"), info.family.load_builder(info)
    samples = [builder.build(picture(40 + 20 * i, 60, i), "q" * (1 + 9 * i), "a" * (30 - i)) for i in range(6)]
    packed = pack(samples)
    together = cut.hidden_states(packed)
    for sample, places in zip(samples, packed.places, strict=True):
        torch.testing.assert_close(together[places], cut.hidden_states(pack([sample])), atol=1e-5, rtol=1e-5)


def independent_image_tokens(width: int, height: int) -> int:
    """LLaVA-NeXT's count from its description: base tile, plus the grid cut to the image's shape, a newline a row."""
    best = max(
        PINPOINTS,
        key=lambda p: (
            min(
                int(width * min(p[1] / width, p[0] / height)) * int(height * min(p[1] / width, p[0] / height)),
                width * height,
            ),
            -p[0] * p[1],
        ),
    )
    rows, columns = best[0] // 7, best[1] // 7
    if width / height > columns / rows:
        kept = int(round(height * (columns / width), 7))
        rows -= (rows - kept) // 2 * 2
    else:
        kept = int(round(width * (rows / height), 7))
        columns -= (columns - kept) // 2 * 2
    return 16 + rows * (columns + 1)


def test_image_tokens_of_fifty_sizes_equal_an_independent_count_newlines_included(folder):
    info = inspect_model(str(folder))
    builder = info.family.load_builder(info)
    cut = info.family.load_model(info, 0, torch.float32, "cpu")
    rng = random.Random(3)
    for _ in range(50):
        size = rng.randint(20, 400), rng.randint(20, 400)
        if max(size) / min(size) > 6:
            continue
        inputs = builder.build(picture(*size), "q", None)
        assert int(inputs.is_image.sum()) == independent_image_tokens(*size), size
        assert len(cut.hidden_states(pack([inputs]))) == len(inputs.input_ids)
        # One run of image tokens: the template's single placeholder.
        assert inputs.is_image.int().diff().count_nonzero() == 2


def test_newline_embedding_is_loaded_not_left_random(folder):
    info = inspect_model(str(folder))
    cut = info.family.load_model(info, 0, torch.float32, "cpu")
    stored = next(t for name, t in load_file(folder / "model.safetensors").items() if name.endswith("image_newline"))
    assert torch.equal(cut.model.image_newline.float(), stored.float())


def test_missing_weights_are_refused_by_name(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    tensors = {k: v for k, v in load_file(copy / "model.safetensors").items() if not k.endswith("image_newline")}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    info = inspect_model(str(copy))
    with pytest.raises(ConfigurationError, match="lacks weights: image_newline"):
        info.family.load_model(info, 1, torch.float32, "cpu")


def test_damaged_weights_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    info = inspect_model(str(copy))
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        info.family.load_model(info, 1, torch.float32, "cpu")


def test_layers_above_the_cut_are_never_in_memory(folder):
    info = inspect_model(str(folder))
    cut = info.family.load_model(info, 1, torch.float32, "cpu")
    names = [name for name, _ in cut.model.named_parameters()]
    assert not any("layers.2" in name or "layers.3" in name for name in names if "language_model" in name)
    assert not any("lm_head" in name for name in names)


SPECIAL = ["<image>", "<s>", "</s>", "<pad>", "<|im_end|>", "<unk>"]


@pytest.fixture(scope="module")
def builder_with_special_tokens(tmp_path_factory):
    """A tokenizer with two more special tokens, one of them without a role, and an added token that is not special."""
    path = make_model(tmp_path_factory.mktemp("special"), MistralConfig)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"] += [
        {"id": len(tokenizer["model"]["vocab"]) + place, "content": content, "special": special, **flags}
        for place, (content, special) in enumerate({"<|im_end|>": True, "<unk>": True, "plainly": False}.items())
    ]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    info = inspect_model(str(path))
    return info.family.load_builder(info)


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("text", ["{}", "see {} here", "x{}"])
def test_special_tokens_in_text_never_reach_the_model(builder_with_special_tokens, token, text):
    builder = builder_with_special_tokens
    for name, question, response in (("question", text.format(token), "a"), ("response", "q", text.format(token))):
        with pytest.raises(ReservedToken, match=re.escape(f"the {name} spells out the special token {token}")):
            builder.build(picture(50, 50), question, response)


@pytest.mark.parametrize(
    "text", ["a < b", "[INST] x [/INST]", "< s >", "<image", "<S>", "plainly", "<|im_end|", "{{ x }}"]
)
def test_other_text_is_only_text(builder_with_special_tokens, text):
    builder = builder_with_special_tokens
    special = builder.processor.tokenizer.convert_tokens_to_ids(list(SPECIAL))
    plain, other = (builder.build(picture(50, 50), question, question) for question in ("q", text))
    counts = [[int((inputs.input_ids == token).sum()) for token in special] for inputs in (plain, other)]
    assert counts[0] == counts[1]
    assert text in builder.processor.tokenizer.decode(other.input_ids)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (5, 700)])
def test_images_that_tiling_leaves_nothing_of_are_refused(folder, size):
    info = inspect_model(str(folder))
    with pytest.raises(ImageShape, match="too narrow"):
        info.family.load_builder(info).build(picture(*size), "q", "a")


def test_a_sample_longer_than_the_context_is_refused(folder):
    info = inspect_model(str(folder))
    builder = info.family.load_builder(info)
    assert info.context == 600
    with pytest.raises(TooLong, match="context holds 600"):
        builder.build(picture(50, 50), "q", "x z " * 400)
    assert len(builder.build(picture(50, 50), "q", "x z " * 40).input_ids) <= 600


def test_a_text_that_no_tokens_could_hold_is_refused_before_it_is_tokenized(folder, monkeypatch):
    info = inspect_model(str(folder))
    builder = info.family.load_builder(info)
    longest = max(builder.processor.tokenizer.get_vocab(), key=len).replace("Ġ", " ").strip() + " "
    # As few tokens for its length as a text can have is still tokenized, to be counted.
    with pytest.raises(TooLong, match=r"^\d+ tokens; the model's context holds 600"):
        builder.build(picture(50, 50), longest * 600, None)
    monkeypatch.setattr(builder.processor, "apply_chat_template", lambda *_, **__: pytest.fail("tokenized"))
    for question, response in (("zq " * 1_000_000, "a"), ("q", "zq " * 1_000_000)):
        with pytest.raises(TooLong, match="characters, so at least 2"):
            builder.build(picture(50, 50), question, response)


def test_prompt_alone_is_a_prefix_of_prompt_and_response(folder):
    info = inspect_model(str(folder))
    builder = info.family.load_builder(info)
    prompt = builder.build(picture(50, 50), "What?", None)
    both = builder.build(picture(50, 50), "What?", "This.")
    assert torch.equal(both.input_ids[: len(prompt.input_ids)], prompt.input_ids)
    assert len(both.input_ids) > len(prompt.input_ids)


def test_other_models_are_refused_before_loading(tmp_path):
    with pytest.raises(ConfigurationError, match="no such folder"):
        inspect_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match=r"no config.json"):
        inspect_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigurationError, match="type is bert"):
        inspect_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llava_next", "text_config": {"model_type": "gpt2"}}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"no \.safetensors"):
        inspect_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="text model is gpt2"):
        inspect_model(str(tmp_path))


def test_an_unreachable_hub_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="name a local copy with --model") as caught:
        inspect_model("llava-hf/no-such-model-anywhere")
    assert "\n" not in str(caught.value)


def test_the_last_images_are_made_once_by_content_and_others_forgotten(folder):
    info = inspect_model(str(folder))
    builder = info.family.load_builder(info)
    made: list[tuple[int, int]] = []
    assert builder.memory is not None
    preprocess = builder.memory._preprocess

    def counted(images, *args, **kwargs):
        made.append(images[0].size)
        return preprocess(images, *args, **kwargs)

    builder.memory._preprocess = counted
    first = builder.build(picture(64, 48, 0), "What?", "This.")
    again = builder.build(picture(64, 48, 0), "Why?", None)
    other = builder.build(picture(64, 48, 1), "What?", "This.")
    assert made == [(64, 48)] * 2
    assert first.image == again.image != other.image
    assert torch.equal(first.tensors["pixel_values"], again.tensors["pixel_values"])
    assert not torch.equal(first.tensors["pixel_values"], other.tensors["pixel_values"])
    for seed in range(2, 9):
        builder.build(picture(64, 48, seed), "What?", None)
    assert torch.equal(
        builder.build(picture(64, 48, 0), "What?", None).tensors["pixel_values"], first.tensors["pixel_values"]
    )
    assert len(made) == 2 + 7 + 1
    fresh = info.family.load_builder(info)
    assert torch.equal(
        fresh.build(picture(64, 48, 1), "What?", "This.").tensors["pixel_values"], other.tensors["pixel_values"]
    )


def test_a_processor_that_remembers_is_saved_as_it_was(folder, tmp_path):
    info = inspect_model(str(folder))
    builder = info.family.load_builder(info)
    builder.build(picture(64, 48), "What?", None)
    builder.processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    assert "memory" not in str(saved).lower()
    assert saved["image_processor_type"].startswith("LlavaNextImageProcessor")
