"""Damaged copies against independent looks at their pixels and words."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from curate.datasets import DatasetSpec, open_dataset
from curate.experiments.damage import DAMAGES, OF_ANOTHER
from curate.sample import Sample

PARTS = {"image": {"swapped image", "blank image", "noise image"}, "chosen": set(DAMAGES)}
PARTS["chosen"] -= PARTS["image"]


@pytest.fixture(scope="module")
def pairs():
    dataset = open_dataset(DatasetSpec(limit=60))
    samples = [sample for _, sample in dataset.samples(range(60))]
    return [(one, other) for one, other in pairwise(samples) if one.chosen != other.chosen]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_copy_differs_in_what_is_damaged_alone_and_is_the_same_for_the_same_draw(pairs, name):
    damaged = 0
    for sample, other in pairs:
        copy = DAMAGES[name](sample, other, random.Random(7))
        if copy is None:
            continue
        damaged += 1
        changed = {part for part in ("question", "chosen", "rejected") if getattr(copy, part) != getattr(sample, part)}
        changed |= {"image"} if not np.array_equal(np.asarray(copy.image), np.asarray(sample.image)) else set()
        expected = {"image"} if name in PARTS["image"] else {"chosen"}
        assert changed == expected | ({"rejected"} if name == "exchanged responses" else set())
        again = DAMAGES[name](sample, other, random.Random(7))
        assert again is not None
        assert (again.chosen, again.image.tobytes()) == (copy.chosen, copy.image.tobytes())
    assert damaged > 0.8 * len(pairs)


def test_each_damage_is_what_its_name_says(pairs):
    for sample, other in pairs:
        made = {name: damage(sample, other, random.Random(3)) for name, damage in DAMAGES.items()}
        pixels = np.asarray(sample.image)
        if made["blank image"] is not None:
            blank = np.asarray(made["blank image"].image)
            assert len(np.unique(blank.reshape(-1, 3), axis=0)) == 1
            assert abs(blank.mean() - pixels.mean()) < 1
        noise = np.asarray(made["noise image"].image)
        assert noise.shape == pixels.shape
        counts, _ = np.histogram(noise, bins=16, range=(0, 256))
        assert ((counts - noise.size / 16) ** 2 / (noise.size / 16)).sum() < 60  # χ², 15 degrees, p = 2e-7
        assert made["swapped image"].image == other.image
        exchanged = made["exchanged responses"]
        assert (exchanged.chosen, exchanged.rejected) == (sample.rejected, sample.chosen)
        assert made["chosen of another"].chosen == other.chosen
        words = sample.chosen.split()
        if (shuffled := made["shuffled words"]) is not None:
            assert Counter(shuffled.chosen.split()) == Counter(words)
            assert shuffled.chosen.split() != words
        if (short := made["truncated"]) is not None:
            n = len(short.chosen.split())
            assert sample.chosen.startswith(short.chosen)
            assert 1 <= n <= max(1, len(words) / 3) < len(words)


def test_what_a_damage_would_not_change_has_no_copy():
    grey = Image.new("RGB", (8, 6), (9, 9, 9))
    sample = Sample("0", 0, "What?", grey, "yes", "yes")
    other = Sample("1", 1, "Why?", grey, "yes", "no")
    unchanged = {name for name, damage in DAMAGES.items() if damage(sample, other, random.Random(0)) is None}
    for name in OF_ANOTHER:
        assert DAMAGES[name](sample, None, random.Random(0)) is None
    assert unchanged == {"blank image", "exchanged responses", "chosen of another", "shuffled words", "truncated"}
    repeated = Sample("2", 2, "What?", grey, "no no no", "yes")
    assert DAMAGES["shuffled words"](repeated, other, random.Random(0)) is None
