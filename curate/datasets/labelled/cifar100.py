"""CIFAR-100 as its authors publish it for C programs: records of a coarse label, a fine label and 3 × 32 × 32 bytes."""

from functools import partial

import numpy as np
from PIL import Image
from upath import UPath

from curate.datasets.labelled.labelled import LabelledImages, asked
from curate.errors import ConfigurationError, DataError, first_line
from curate.fingerprint import files_sha256

NAMES, SPLITS = "fine_label_names.txt", ("train", "test")
_SIDE = 32
_RECORD = 2 + 3 * _SIDE * _SIDE


def is_cifar100(folder: UPath) -> bool:
    """Whether a folder holds the binary version, and not the one for Python, which is pickled."""
    return (folder / NAMES).is_file()


def open_cifar100(folder: UPath, split: str) -> LabelledImages:
    """The images of a split by their fine labels.

    Raises:
        ConfigurationError: no such split.
        DataError: a file that is missing or damaged.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"--split {split}: CIFAR-100 has {' and '.join(SPLITS)}")
    file = folder / f"{split}.bin"
    try:
        names = (folder / NAMES).read_text(encoding="utf-8").split()
        content = np.frombuffer(file.read_bytes(), np.uint8)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder} is not a whole CIFAR-100: {first_line(error)}") from error
    if len(content) == 0 or len(content) % _RECORD:
        raise DataError(f"{file} has {len(content):,} bytes, which are no whole records of {_RECORD:,}")
    records = content.reshape(-1, _RECORD)
    labels = records[:, 1]
    if int(labels.max()) >= len(names):
        raise DataError(f"{file} has the fine label {labels.max()}, and {NAMES} names {len(names)}")
    classes = tuple(name.replace("_", " ") for name in names)
    return LabelledImages(
        name="cifar-100",
        classes=classes,
        labels=tuple(map(int, labels)),
        ids=tuple(f"{split}-{place:05d}" for place in range(len(records))),
        sha256=lambda: files_sha256(folder, [file, folder / NAMES]),
        decode=partial(_decode, records),
        question=asked,
        answer=lambda _, label: classes[label],
    )


def _decode(records: np.ndarray, place: int) -> Image.Image:
    channels = records[place, 2:].reshape(3, _SIDE, _SIDE)
    return Image.fromarray(channels.transpose(1, 2, 0).copy())
