"""The 1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn (UCI, Alpaydin and Kaynak 1998)."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from curate.datasets.labelled.labelled import LabelledImages

NAME = "digits"
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LEVELS = 16


def open_digits() -> LabelledImages:
    """All of them, dark on light as they were written."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    labels = tuple(int(label) for label in found["target"])
    pixels = np.round((1 - found["images"] / _LEVELS) * 255).astype(np.uint8)
    return LabelledImages(
        name=NAME,
        classes=CLASSES,
        labels=labels,
        ids=tuple(f"{place:04d}" for place in range(len(labels))),
        sha256=lambda: hashlib.sha256(pixels.tobytes() + bytes(labels)).hexdigest(),
        decode=lambda place: Image.fromarray(pixels[place]).convert("RGB"),
        question=lambda _: "Which digit is this? Answer with its name.",
        answer=lambda _, label: CLASSES[label],
    )
