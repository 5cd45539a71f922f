"""A small cache of the Hugging Face hub, laid out as the hub's client does, with what the SAE-V paper's runs ask for.

Names, files and weights' keys are the published ones; models are small, their SAEs are made from their hidden states.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.datasets.demo import demo_row
from curate.demo.export import SCHEMA
from curate.errors import SampleError
from curate.models.families import inspect_model
from curate.models.packing import pack
from curate.sae.scale import estimate_scale
from tests.models.small import picture, write_chameleon

LLAVA, CHAMELEON = "llava-hf/llava-v1.6-mistral-7b-hf", "facebook/chameleon-7b"
SAES = "PKU-Alignment/SAE-V"
FOLDERS = {LLAVA: "SAEV_LLaVA_NeXT-7b_OBELICS", CHAMELEON: "SAEV_Chameleon-7b_OBELICS"}
ALIGN_ANYTHING, RLAIF_V = "PKU-Alignment/align-anything", "openbmb/RLAIF-V-Dataset"
BENCH = "liuhaotian/llava-bench-in-the-wild"
LAYER = 2  # of 4; the published SAEs read layers 16 and 8
QUESTIONS = {"conv": "What is in the photo?", "detail": "Describe this photo in detail.", "complex": "Why is it so?"}
# Of what a feature says, so much is taken off, in normalised units: then an encoder at another scale says other things.
SHRINK = 0.5
_CONTEXT = 4096
_DEMO_ROWS = {"train": 60, "val": 12}
_SAMPLES_OF_SAE = 24


def write_hub(home: Path, data: Path | None) -> Path:
    """Write the cache below `home`, which is what HF_HOME names, and return it.

    Args:
        data: a folder with `align_anything` and `rlaif_v`, of real photographs; without, demo rows stand for them.
    """
    made = home.with_name(f"{home.name}-made")
    writers: Mapping[str, Callable[[Path], None]] = {
        f"models--{LLAVA}": _write_llava,
        f"models--{CHAMELEON}": _write_chameleon,
        f"datasets--{ALIGN_ANYTHING}": lambda folder: _write_align_anything(folder, data),
        f"datasets--{RLAIF_V}": lambda folder: _write_rlaif_v(folder, data),
        f"datasets--{BENCH}": _write_bench,
    }
    for name, write in writers.items():
        folder = made / name.replace("/", "--")
        folder.mkdir(parents=True)
        write(folder)
        _cached(home, name, folder)
    saes = made / "saes"
    for model, name in FOLDERS.items():
        spec = DatasetSpec(name="align-anything", data_dir=str(made / f"datasets--{ALIGN_ANYTHING.replace('/', '--')}"))
        hidden = hidden_states(made / f"models--{model.replace('/', '--')}", spec)
        write_published(saes / name, hidden, model)
    _cached(home, f"models--{SAES}", saes)
    shutil.rmtree(made)
    return home


def snapshot(home: Path, name: str) -> Path:
    """The folder of a repository's files, as `models--OWNER/NAME` or `datasets--OWNER/NAME`."""
    repository = home / "hub" / name.replace("/", "--")
    return repository / "snapshots" / (repository / "refs" / "main").read_text()


def environment(home: Path, **more: str) -> dict[str, str]:
    """A process's environment: offline, this cache, no configuration of curate's, and what is named."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CURATE_", "HF_"))}
    root = str(Path(__file__).parent.parent)
    return {**inherited, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": root, **more}


def _cached(home: Path, name: str, files: Path) -> None:
    """Blobs by their hash, one commit, and links from its snapshot."""
    repository = home / "hub" / name.replace("/", "--")
    commit = hashlib.sha1(name.encode()).hexdigest()
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in sorted(path for path in files.rglob("*") if path.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        link = repository / "snapshots" / commit / file.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def _write_llava(folder: Path) -> None:
    """The demo's model under the published checkpoint's names of files and weights, in shards."""
    for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo.MODEL / file, folder / file)
    processor = json.loads((demo.MODEL / "processor_config.json").read_text())
    images = processor.pop("image_processor") | {"processor_class": "LlavaNextProcessor"}
    template = (demo.MODEL / "chat_template.jinja").read_text()
    for name, content in (
        ("preprocessor_config.json", images),
        ("processor_config.json", processor),
        ("chat_template.json", {"chat_template": template}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2))
    tensors = {published_key(key): value for key, value in load_file(demo.MODEL / "model.safetensors").items()}
    _write_shards(folder, tensors, 2)


def published_key(key: str) -> str:
    """As in llava-hf's checkpoints, whose vision tower is a whole CLIP model."""
    return key.replace("vision_tower.", "vision_tower.vision_model.", 1)


def _write_shards(folder: Path, tensors: Mapping[str, Tensor], n: int) -> None:
    names, where = sorted(tensors), {}
    for shard in range(n):
        file = f"model-{shard + 1:05}-of-{n:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::n]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_chameleon(folder: Path) -> None:
    torch.manual_seed(0)
    write_chameleon(folder, swin_norm=False, context=_CONTEXT)


def _write_align_anything(folder: Path, data: Path | None) -> None:
    name = "text-image-to-text"
    if data is not None:
        shutil.copytree(data / "align_anything" / name, folder / name)
        return
    (folder / name).mkdir()
    for seed, (split, n) in enumerate(_DEMO_ROWS.items()):
        rows = pa.Table.from_pylist([demo_row(seed, row) for row in range(n)], schema=SCHEMA)
        pq.write_table(rows, folder / name / f"{split}-00000-of-00001.parquet")


def _write_rlaif_v(folder: Path, data: Path | None) -> None:
    if data is not None:
        shutil.copytree(data / "rlaif_v", folder, dirs_exist_ok=True)
        return
    rows = []
    for row in (demo_row(2, number) for number in range(_DEMO_ROWS["train"])):
        answers = [row["response_1"], row["response_2"]]
        chosen = row["overall_response"] == 1
        pair = dict(zip(("chosen", "rejected") if chosen else ("rejected", "chosen"), answers, strict=True))
        rows.append({"question": row["question"], "image": row["image"], **pair})
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def _write_bench(folder: Path) -> None:
    """LLaVA-Bench's files and fields; as many questions as kinds of them, about two drawn pictures."""
    (folder / "images").mkdir()
    lines: dict[str, list[dict[str, Any]]] = {"questions": [], "context": [], "answers_gpt4": []}
    for number in (1, 2):
        picture(56, 42, number).save(folder / "images" / f"{number:03}.jpg")
        lines["context"].append({"id": f"{number:03}", "image": f"{number:03}.jpg", "caption": "Many colours."})
    for number, (category, text) in enumerate(QUESTIONS.items()):
        image = f"{1 + number % 2:03}.jpg"
        lines["questions"].append({"image": image, "text": text, "category": category, "question_id": number})
        answer = {"question_id": number, "prompt": text, "answer_id": f"a{number}", "model_id": "gpt-4-0314"}
        lines["answers_gpt4"].append({**answer, "metadata": {}, "text": "Colours."})
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def hidden_states(model: Path, spec: DatasetSpec) -> Float[Tensor, "tokens d_model"]:
    """After the SAE's layer, of a data set's first samples, without their first tokens, whose norms are others."""
    info = inspect_model(str(model))
    builder, cut = info.family.load_builder(info), info.family.load_model(info, LAYER, torch.float32, "cpu")
    rows: Iterator[Any] = open_dataset(spec).samples(range(_SAMPLES_OF_SAE))
    samples = [sample for _, sample in rows if not isinstance(sample, SampleError)]
    inputs = [builder.build(sample.image, sample.question, sample.chosen) for sample in samples]
    return torch.cat([cut.hidden_states(pack([each]))[1:] for each in inputs])


def write_published(folder: Path, hidden: Float[Tensor, "tokens d_model"], model: str) -> None:
    """A ReLU SAE as SAELens-V leaves one: its scale is in its weights, and its config does not say so.

    Its features are the principal directions of normalised hidden states and their opposites.
    """
    scale, d_model = estimate_scale([hidden]), hidden.shape[1]
    normalized = hidden.double() * scale
    directions = torch.linalg.eigh(normalized.T @ normalized).eigenvectors.float()
    encoder = torch.cat([directions, -directions], dim=1)
    # Its fold left the decoder's bias as it was.
    bias = torch.full((d_model,), 0.01)
    folder.mkdir(parents=True)
    tensors = {
        "W_enc": encoder * scale,
        "b_enc": torch.full((2 * d_model,), -SHRINK),
        "W_dec": encoder.T / scale,
        "b_dec": bias,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "d_in": d_model,
        "d_sae": 2 * d_model,
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": False,
        "finetuning_scaling_factor": False,
        "context_size": _CONTEXT,
        "model_name": model,
        "hook_name": f"blocks.{LAYER}.hook_resid_post",
        "hook_layer": LAYER,
        "hook_head_index": None,
        "prepend_bos": True,
        "dataset_path": "HuggingFaceM4/OBELICS",
        "normalize_activations": "expected_average_only_in",
        "dtype": "float32",
        "device": "cuda",
        "sae_lens_training_version": "3.20.0",
    }
    (folder / "cfg.json").write_text(json.dumps(config))


def write_in_todays_format(published: Path, folder: Path) -> None:
    """The same SAE as sae_lens writes one now, which needs no guess at its scale."""
    config = json.loads((published / "cfg.json").read_text())
    kept = {name: config[name] for name in ("architecture", "d_in", "d_sae", "apply_b_dec_to_input", "dtype")}
    metadata = {name: config[name] for name in ("model_name", "hook_name", "hook_layer")}
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({**kept, "normalize_activations": "none", "metadata": metadata}))
    shutil.copyfile(published / "sae_weights.safetensors", folder / "sae_weights.safetensors")
