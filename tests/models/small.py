"""Small random models of the real architectures, in folders as published models have them."""

import json
import random
import shutil
from pathlib import Path

import torch
import transformers as hf
from PIL import Image
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from curate import demo

N_LAYERS, CONTEXT, VOCABULARY = 4, 500, 1200
SIDE = 4  # patches, of 7 pixels in LLaVA and 4 in Chameleon
TEXT = {
    "mistral": hf.MistralConfig,
    "llama": hf.LlamaConfig,
    "gemma": hf.GemmaConfig,
    "gemma2": hf.Gemma2Config,
    "qwen2": hf.Qwen2Config,
    "gpt_neox": hf.GPTNeoXConfig,
}
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
)
CODES = 24
SPECIAL = {
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "chameleon": ["<racm3:break>", "<eoss>", "<reserved08706>"],
}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3))


def code_name(code: int) -> str:
    """As in Chameleon's vocabulary: digits are letters."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def write_tokenizer(path: Path, bos: str = "added", special=(), plain=(), **config: object) -> dict:
    """The demo's tokenizer with more tokens.

    Args:
        bos: whether it has one: `added` to every text, `kept` for templates, `none`.
        special, plain: added tokens, special or not.

    Returns:
        the vocabulary.
    """
    tokenizer = json.loads((demo.MODEL / "tokenizer.json").read_text())
    settings = json.loads((demo.MODEL / "tokenizer_config.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    first = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] += [
        {"id": first + place, "content": content, "special": content in special, **flags}
        for place, content in enumerate([*special, *plain])
    ]
    if bos != "added":
        tokenizer["post_processor"] = None
    if bos == "none":
        del settings["bos_token"]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, **config}))
    return {**tokenizer["model"]["vocab"], **{token["content"]: token["id"] for token in tokenizer["added_tokens"]}}


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}


def text_config(kind: str):
    """With heads that share keys and a window shorter than the texts, where the architecture has them."""
    own = {} if kind == "gpt_neox" else {"num_key_value_heads": 2}
    own |= {"sliding_window": 20} if kind in ("mistral", "gemma2") else {}
    return TEXT[kind](**SIZES, **own, **({"head_dim": 8} if kind.startswith("gemma") else {}))


def vision_config():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    return hf.CLIPVisionConfig(**sizes, image_size=7 * SIDE, patch_size=7, initializer_range=0.2)


def write_text_model(path: Path, kind: str) -> Path:
    """Qwen2 has no BOS, and Pythia's tokenizer has one that it does not add."""
    write_tokenizer(path, {"qwen2": "none", "gpt_neox": "kept"}.get(kind, "added"))
    return save(hf.AutoModelForCausalLM.from_config(text_config(kind)), path)


def write_llava(path: Path, kind: str, strategy: str = "default") -> Path:
    """With a whole processor, or, with Gemma text, as Intel/llava-gemma-2b: parts, and a text model's template."""
    if kind == "gemma":
        vocabulary = write_tokenizer(path, special=SPECIAL["gemma"], chat_template=GEMMA_TEMPLATE)
        square = {"height": 7 * SIDE, "width": 7 * SIDE}
        parts = {"image_processor_type": "CLIPImageProcessor", "crop_size": square, "size": {"shortest_edge": 7 * SIDE}}
        (path / "preprocessor_config.json").write_text(json.dumps({**parts, "processor_class": "LlavaGemmaProcessor"}))
    else:
        vocabulary = write_tokenizer(path)
        processor = hf.LlavaProcessor(
            LlavaImageProcessorPil(size={"shortest_edge": 7 * SIDE}, crop_size={"height": 7 * SIDE, "width": 7 * SIDE}),
            hf.AutoTokenizer.from_pretrained(path),
            chat_template=(demo.MODEL / "chat_template.jinja").read_text(),
        )
        processor.save_pretrained(path)
    config = hf.LlavaConfig(
        text_config=text_config(kind),
        vision_config=vision_config(),
        image_token_index=vocabulary["<image>"],
        vision_feature_select_strategy=strategy,
    )
    return save(hf.LlavaForConditionalGeneration(config), path)


def write_llava_next(path: Path, kind: str) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(demo.MODEL / name, path)
    processor = json.loads((demo.MODEL / "processor_config.json").read_text())
    processor["image_processor"]["image_grid_pinpoints"] = PINPOINTS
    (path / "processor_config.json").write_text(json.dumps(processor))
    config = hf.LlavaNextConfig(
        text_config=text_config(kind),
        vision_config=vision_config(),
        image_token_index=json.loads((demo.MODEL / "config.json").read_text())["image_token_index"],
        image_grid_pinpoints=PINPOINTS,
    )
    return save(hf.LlavaNextForConditionalGeneration(config), path)


def write_chameleon(path: Path, swin_norm: bool, context: int = CONTEXT) -> Path:
    codes = [code_name(code) for code in range(CODES)]
    vocabulary = write_tokenizer(path, special=SPECIAL["chameleon"], plain=codes, sep_token="<reserved08706>")
    edge = 4 * SIDE
    processor = hf.ChameleonProcessor(
        ChameleonImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}),
        hf.AutoTokenizer.from_pretrained(path),
        image_seq_length=SIDE * SIDE,
    )
    processor.save_pretrained(path)
    config = hf.ChameleonConfig(
        **{**SIZES, "max_position_embeddings": context},
        num_key_value_heads=2,
        swin_norm=swin_norm,
        vocabulary_map=vocabulary,
        vq_config={
            "embed_dim": 8,
            "num_embeddings": CODES,
            "latent_channels": 8,
            "resolution": edge,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 1,
        },
    )
    model = hf.ChameleonForConditionalGeneration(config)
    return save(model, path, then=_spread_codes)


def _spread_codes(model) -> None:
    """Weights as they begin give every patch the same code."""
    torch.nn.init.normal_(model.model.vqmodel.quantize.embedding.weight)
    torch.nn.init.normal_(model.model.vqmodel.quant_conv.weight, std=3.0)


def save(model, path: Path, then=lambda model: None) -> Path:
    torch.manual_seed(0)
    model.init_weights()
    then(model)
    model.save_pretrained(path)
    return path


MODELS = {
    "llava_next-mistral": lambda path: write_llava_next(path, "mistral"),
    **{f"llava-{kind}": lambda path, kind=kind: write_llava(path, kind) for kind in ("llama", "mistral", "qwen2")},
    "llava-gemma": lambda path: write_llava(path, "gemma"),
    "chameleon": lambda path: write_chameleon(path, swin_norm=False),
    "chameleon-swin": lambda path: write_chameleon(path, swin_norm=True),
    **{kind: lambda path, kind=kind: write_text_model(path, kind) for kind in TEXT},
}
