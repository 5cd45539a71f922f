"""Damaged copies of samples, of known kinds: what a metric that tells good from bad should rank below the originals."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from curate.sample import Sample

# From a sample, another one with another image and chosen response (if there is any), and what draws; None where a copy
# would not differ from the sample.
Damage = Callable[[Sample, Sample | None, random.Random], Sample | None]


def swapped_image(sample: Sample, other: Sample | None, rng: random.Random) -> Sample | None:
    """The other sample's image."""
    return other and replace(sample, image=other.image)


def blank_image(sample: Sample, other: Sample | None, rng: random.Random) -> Sample | None:
    """An image of the same size, all of the mean colour."""
    pixels = np.asarray(sample.image)
    mean = tuple(int(channel) for channel in pixels.reshape(-1, 3).mean(0).round())
    blank = Image.new("RGB", sample.image.size, mean)
    return None if np.array_equal(np.asarray(blank), pixels) else replace(sample, image=blank)


def noise_image(sample: Sample, other: Sample | None, rng: random.Random) -> Sample:
    """An image of the same size, each channel of each pixel drawn evenly."""
    shape = (sample.image.height, sample.image.width, 3)
    pixels = np.random.default_rng(rng.getrandbits(64)).integers(0, 256, shape, dtype=np.uint8)
    return replace(sample, image=Image.fromarray(pixels))


def exchanged_responses(sample: Sample, other: Sample | None, rng: random.Random) -> Sample | None:
    """Chosen and rejected exchanged."""
    if sample.chosen == sample.rejected:
        return None
    return replace(sample, chosen=sample.rejected, rejected=sample.chosen)


def chosen_of_another(sample: Sample, other: Sample | None, rng: random.Random) -> Sample | None:
    """The other sample's chosen response."""
    return None if other is None or other.chosen == sample.chosen else replace(sample, chosen=other.chosen)


def shuffled_words(sample: Sample, other: Sample | None, rng: random.Random) -> Sample | None:
    """The chosen response's words in another order."""
    words = sample.chosen.split()
    if len(set(words)) < 2:
        return None
    order = words
    while order == words:
        order = rng.sample(words, len(words))
    return replace(sample, chosen=" ".join(order))


def truncated(sample: Sample, other: Sample | None, rng: random.Random) -> Sample | None:
    """The first third of the chosen response's words, and at least one."""
    words = sample.chosen.split()
    return None if len(words) < 2 else replace(sample, chosen=" ".join(words[: max(1, len(words) // 3)]))


DAMAGES: dict[str, Damage] = {
    "swapped image": swapped_image,
    "blank image": blank_image,
    "noise image": noise_image,
    "exchanged responses": exchanged_responses,
    "chosen of another": chosen_of_another,
    "shuffled words": shuffled_words,
    "truncated": truncated,
}
# Those that take something of another sample.
OF_ANOTHER = {"swapped image", "chosen of another"}
