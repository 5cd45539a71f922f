"""Train the demo model from scratch: a LLaVA-NeXT of about a million parameters that answers in the toy world."""

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from curate.datasets.demo import COLOURS, KINDS, NON_VISUAL, SHAPES, Scene, answer, draw_scene, questions, render

TILE, PATCH = 28, 7
CONTEXT = 4096
VOCABULARY = 1024
POOL = 24_000
BATCH = 32
QUESTIONS_PER_IMAGE = 6
HELD_OUT_SCENES = 500
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}"
)
# Everyday English, so that real questions and answers do not fall apart into single bytes.
COMMON_WORDS = """the of and to in is you that it he was for on are as with his they at be this from have or by one had
not but what all were when we there can an your which their said if do will each about how up out them then she many
some so these would other into has more her two like him see time could no make than first been its who now people my
made over did down only way find use may water long little very after words called just where most know get through
back much before go good new write our used me man too any day same right look think also around another came come work
three word must because does part even place well such here take why things help put years different away again off went
old number great tell men say small every found still between name should home big give air line set own under read last
never us left end along while might next sound below saw something thought both few those always looked show large often
together asked house world going want school important until form food keep children feet land side without boy once
animals life enough took sometimes four head above kind began almost live page got earth need far hand high year mother
light parts country father let night following picture being study second eyes soon times story boys since white days
ever paper hard near sentence better best across during today others however sure means knew try told young miles sun
ways thing whole hear example heard several change answer room sea against top turned learn point city play toward five
using himself usually image photo photograph painting shows visible background foreground standing wearing holding
sitting street building table sky trees person woman black brown grey shirt window wall floor front person's likely
suggests appears describe colour color question response"""


def build_processor() -> LlavaNextProcessor:
    """A byte-level BPE tokenizer (any text encodes) and LLaVA-NeXT's own image processor at 28-pixel tiles."""
    rng = random.Random("tokenizer")
    corpus = [f"[INST] \n{q} [/INST] {right} {wrong}" for q, right, wrong in NON_VISUAL]
    for _ in range(2_000):
        scene = draw_scene(rng)
        corpus += [f"[INST] \n{q.text} [/INST] {answer(q, scene)}" for q in questions(scene)]
    corpus += [f" {word}" for word in COMMON_WORDS.split() for _ in range(40)]
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "</s>", "<pad>", "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=CONTEXT,
    )
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=[[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]],
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaNextProcessor) -> LlavaNextForConditionalGeneration:
    """The untrained model: CLIP-style tower of 64 × 2 layers, Mistral text model of 96 × 4 layers."""
    tokenizer = processor.tokenizer
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        sliding_window=None,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=TILE,
        patch_size=PATCH,
        initializer_range=0.08,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return LlavaNextForConditionalGeneration(config)


class ScenePool:
    """Scenes with their processed images, drawn once: `pixels[i]` is (tiles, 3, 28, 28) in float16."""

    def __init__(self, processor: Any, name: str, count: int) -> None:
        self.scenes: list[Scene] = []
        self.pixels: list[Float[Tensor, "tiles 3 h w"]] = []
        self.prefixes: list[Int[Tensor, " prefix"]] = []
        lengths: dict[tuple[int, int], Int[Tensor, " prefix"]] = {}
        for index in range(count):
            rng = random.Random(f"{name}:{index}")
            scene = draw_scene(rng)
            image = render(scene, rng)
            if scene.size not in lengths:
                encoded = processor(text="[INST] <image>\n", images=image, return_tensors="pt")
                lengths[scene.size] = encoded["input_ids"][0]
            features = processor.image_processor(image, return_tensors="pt")
            self.scenes.append(scene)
            self.pixels.append(features["pixel_values"][0].half())
            self.prefixes.append(lengths[scene.size])


def training_questions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Six question-answer pairs about a scene: every kind it allows, then more at random; some not visual."""
    by_kind = defaultdict(list)
    for question in questions(scene):
        by_kind[question.kind].append(question)
    chosen = [rng.choice(group) for group in by_kind.values()]
    spare = [question for question in questions(scene) if question not in chosen and question.kind != "what"]
    chosen += rng.sample(spare, min(len(spare), QUESTIONS_PER_IMAGE - len(chosen)))
    pairs = [(question.text, str(answer(question, scene))) for question in chosen]
    pairs += [(q, right) for q, right, _ in rng.sample(NON_VISUAL, QUESTIONS_PER_IMAGE)]
    return pairs[:QUESTIONS_PER_IMAGE]


def batches(
    pool: ScenePool, processor: LlavaNextProcessor, steps: int, rng: random.Random
) -> Iterator[tuple[dict[str, Tensor], Tensor, list[Scene]]]:
    """Training batches: six independent question-answers packed behind one shared image prefix.

    Yields:
        the model's inputs (a 4-D boolean mask keeps the pairs apart, positions restart at the prefix's end),
        the labels (−100 outside answers) and the scenes.
    """
    tokenizer = processor.tokenizer
    for _ in range(steps):
        rows = [rng.randrange(len(pool.scenes)) for _ in range(BATCH)]
        ids, labels, blocks, positions = [], [], [], []
        for row in rows:
            prefix = pool.prefixes[row].tolist()
            row_ids, row_labels = list(prefix), [-100] * len(prefix)
            row_blocks, row_positions = [0] * len(prefix), list(range(len(prefix)))
            for block, (q, a) in enumerate(training_questions(pool.scenes[row], rng), start=1):
                question_ids = tokenizer(f"{q} [/INST]", add_special_tokens=False)["input_ids"]
                answer_ids = tokenizer(f" {a}</s>", add_special_tokens=False)["input_ids"]
                length = len(question_ids) + len(answer_ids)
                row_ids += question_ids + answer_ids
                row_labels += [-100] * len(question_ids) + answer_ids
                row_blocks += [block] * length
                row_positions += range(len(prefix), len(prefix) + length)
            ids.append(row_ids)
            labels.append(row_labels)
            blocks.append(row_blocks)
            positions.append(row_positions)
        block = _pad(blocks, -1)
        same = (block[:, None, :] == 0) | (block[:, None, :] == block[:, :, None])
        causal = torch.ones(block.shape[1], block.shape[1], dtype=torch.bool).tril()
        mask: Bool[Tensor, "batch 1 query key"] = (same & causal)[:, None]
        tiles = max(len(pool.pixels[row]) for row in rows)
        pixels = torch.zeros(BATCH, tiles, 3, TILE, TILE)
        for i, row in enumerate(rows):
            pixels[i, : len(pool.pixels[row])] = pool.pixels[row].float()
        inputs = {
            "input_ids": _pad(ids, tokenizer.pad_token_id),
            "attention_mask": mask,
            "position_ids": _pad(positions, 0),
            "pixel_values": pixels,
            "image_sizes": torch.tensor([pool.scenes[row].size[::-1] for row in rows]),
        }
        yield inputs, _pad(labels, -100), [pool.scenes[row] for row in rows]


def _pad(rows: list[list[int]], value: int) -> Int[Tensor, "rows longest"]:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


class QuadrantHead(nn.Module):
    """Auxiliary classifier of what stands in each quadrant, on the projector's output for the base tile."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model * 4, 1 + len(COLOURS) * len(SHAPES))

    def loss(self, base: Float[Tensor, "batch 16 d_model"], scenes: list[Scene]) -> Float[Tensor, ""]:
        names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
        target = torch.zeros(len(scenes), 4, dtype=torch.long)
        for row, scene in enumerate(scenes):
            for item in scene.items:
                target[row, item.quadrant] = 1 + names.index(str(item))
        grid = base.unflatten(1, (2, 2, 2, 2)).permute(0, 1, 3, 2, 4, 5)
        return nn.functional.cross_entropy(self.linear(grid.flatten(3)).flatten(0, 2), target.flatten())


def train_model(output: Path, steps: int, seed: int) -> dict[str, object]:
    """Train, save in bfloat16 and test the demo model.

    Args:
        output: folder for model, tokenizer and processor; made if missing.
        steps: optimizer steps of `BATCH` images with six question-answers each.
        seed: of the weights and of the order of the data.

    Returns:
        what `training.json` keeps: settings, final loss, exact match per question kind.
    """
    from rich.progress import track

    torch.manual_seed(seed)
    processor = build_processor()
    model: Any = build_model(processor)
    head = QuadrantHead(model.config.text_config.hidden_size)
    pool = ScenePool(processor, f"train:{seed}", POOL)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=steps, pct_start=0.05, anneal_strategy="cos"
    )
    caught: list[Tensor] = []
    model.model.multi_modal_projector.register_forward_hook(lambda _module, _inputs, result: caught.append(result))
    recent: list[float] = []
    data = batches(pool, processor, steps, random.Random(f"order:{seed}"))
    for step, (inputs, labels, scenes) in enumerate(track(data, "training the demo model", total=steps)):
        hidden = model.model(**inputs, use_cache=False).last_hidden_state
        projected = caught.pop()
        wanted = labels[:, 1:] != -100
        logits = model.lm_head(hidden[:, :-1][wanted])
        loss = nn.functional.cross_entropy(logits, labels[:, 1:][wanted])
        tiles = torch.tensor([3 if scene.size in ((112, 56), (56, 112)) else 5 for scene in scenes])
        base = projected[tiles.cumsum(0) - tiles]
        total = loss + 0.5 * head.loss(base, scenes)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 200 == 199:
            print(f"step {step + 1}: loss {np.mean(recent[-200:]):.4f}", flush=True)
    model.eval().to(torch.bfloat16).save_pretrained(output)
    processor.save_pretrained(output)
    return {
        "seed": seed,
        "steps": steps,
        "batch": BATCH,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss": round(float(np.mean(recent[-200:])), 4),
        "exact_match": exact_match(output, HELD_OUT_SCENES),
    }


@torch.inference_mode()
def exact_match(folder: Path, scenes: int) -> dict[str, float]:
    """Share of answers by `generate()` that equal the right one, per question kind, on held-out scenes.

    Args:
        folder: a saved demo model; read as a user would read it.
        scenes: how many scenes no training has drawn; each is asked one question of every kind it allows.
    """
    model: Any = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = LlavaNextProcessor.from_pretrained(folder, backend="pil")
    processor.tokenizer.padding_side = "left"
    asked = []
    for index in range(scenes):
        rng = random.Random(f"held-out:{index}")
        scene = draw_scene(rng)
        image = render(scene, rng)
        by_kind = {question.kind: question for question in rng.sample(questions(scene), len(questions(scene)))}
        asked += [(kind, question.text, image, answer(question, scene)) for kind, question in by_kind.items()]
    right = {kind: [] for kind in KINDS}
    asked.sort(key=lambda entry: entry[0] == "describe")
    for start in range(0, len(asked), 100):
        kinds, texts, images, answers = zip(*asked[start : start + 100], strict=True)
        prompts = [f"[INST] <image>\n{text} [/INST]" for text in texts]
        inputs = processor(text=prompts, images=list(images), padding=True, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=64)
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for kind, text, wanted in zip(kinds, said, answers, strict=True):
            right[kind].append(text.strip() == wanted)
    return {kind: round(sum(hits) / len(hits), 4) for kind, hits in right.items()}
