"""The embedded default as ordinary folders."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from curate.datasets.demo import demo_row
from curate.datasets.labelled import LabelledSpec, open_labelled
from curate.demo import MODEL, SAE
from curate.errors import ConfigurationError
from curate.storage import follow_umask

_ROWS_PER_GROUP = 100
SHAPES = 80
SCHEMA = pa.schema(
    [
        pa.field("question", pa.string()),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("response_1", pa.string()),
        pa.field("response_2", pa.string()),
        pa.field("overall_response", pa.int64()),
        pa.field("quality", pa.string()),
    ]
)


_TEXT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)


def export(directory: Path, samples: int, seed: int) -> None:
    """Write `model`, `text-model`, `sae`, `data` and `shapes`.

    The data have align-anything's layout and columns, plus `quality`; the text model is the model's text part alone;
    shapes are labelled images, a folder for each class.

    Raises:
        ConfigurationError: the folder holds something already, or cannot be made.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(f"{directory} exists and is not an empty folder")
    folder = directory / "data" / "text-image-to-text"
    try:
        folder.mkdir(parents=True)
        shutil.copytree(MODEL, directory / "model")
        shutil.copytree(SAE, directory / "sae")
        write_text_model(directory / "text-model")
        write_shapes(directory / "shapes", SHAPES, seed)
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be written: {error.strerror}") from error
    with pq.ParquetWriter(folder / "train-00000-of-00001.parquet", SCHEMA) as writer:
        for start in range(0, samples, _ROWS_PER_GROUP):
            rows = [demo_row(seed, row) for row in range(start, min(start + _ROWS_PER_GROUP, samples))]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


def write_shapes(folder: Path, n: int, seed: int) -> None:
    """So many labelled images of the demo world in a new folder, those of a class in a folder of its name."""
    images = open_labelled(LabelledSpec(name="demo-shapes", sample=n, seed=seed))
    for place, label in enumerate(images.labels):
        own = folder / images.classes[label]
        own.mkdir(parents=True, exist_ok=True)
        images.decode(place).save(own / f"{images.ids[place]}.png")


def write_text_model(folder: Path) -> None:
    """The demo model's text part as a Mistral model of its own, in a new folder: what stands for its base model."""
    folder.mkdir()
    config = json.loads((MODEL / "config.json").read_text())
    text = config["text_config"] | {"architectures": ["MistralForCausalLM"], "dtype": config["dtype"]}
    (folder / "config.json").write_text(json.dumps(text, indent=2))
    part = "language_model."
    tensors = load_file(MODEL / "model.safetensors").items()
    text_tensors = {name.removeprefix(part): tensor for name, tensor in tensors if name.startswith(part)}
    save_file(text_tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(MODEL / "tokenizer.json", folder)
    tokenizer = json.loads((MODEL / "tokenizer_config.json").read_text())
    tokenizer.pop("processor_class")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": _TEXT_TEMPLATE}, indent=2))
    follow_umask(folder)
