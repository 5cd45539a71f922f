"""Copies in a run: exact ones by counting, near ones by images and texts that were made so."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from curate.manifest.order import best_first
from curate.manifest.record import read_record
from curate.report.html import duplicates as module
from curate.report.html.duplicates import MOST_BITS, MOST_COLOUR, duplicates, near_groups
from curate.report.samples import open_samples
from tests.report.html.runs import Sample, write_run


def photo(seed: int, size: int = 96, kind: str = "PNG", **options) -> bytes:
    """Soft blobs of colour, as different from those of another seed as photographs are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    file = io.BytesIO()
    image.resize((size, size)).save(file, kind, **options)
    return file.getvalue()


ANSWER = "A white cockatoo perches on a bare branch in the lower part of the picture, looking at the viewer."
SAMPLES = [
    Sample("What is to be seen?", photo(0), ANSWER),
    Sample("What is to be seen?", photo(1), "Two red boats lie on a beach."),
    Sample("What is to be seen?", photo(0, 64, "JPEG", quality=70), ANSWER.replace("bare", "bald")),  # near the first
    Sample("How many birds?", photo(0), "One."),  # the first's image
    Sample("What is to be seen?", photo(0, 48, "JPEG"), "Nothing of interest, by any account whatever."),
    Sample("What is to be seen?", photo(2), ANSWER),  # the first's text
    Sample("What is to be seen?", photo(1), "Two red boats lie on a beach."),  # the second again
    Sample("What is to be seen?", b"no image", ANSWER),
]


def looked(run, keep: int, most: int = 5):
    record = read_record(run)
    order = best_first(run, record, record.metrics[0])
    steps = []
    found = duplicates(run, order, keep, open_samples(record), most, lambda done, total: steps.append((done, total)))
    return found, steps


def ranks(groups) -> list[list[int]]:
    return [[member.rank for member in group] for group in groups.largest]


def test_copies_and_near_copies_are_found_and_nothing_else(tmp_path):
    found, steps = looked(write_run(tmp_path / "run", SAMPLES), 8)
    assert (found.copies.groups, found.copies.rows, ranks(found.copies)) == (1, 2, [[2, 7]])
    assert (found.best, found.read) == (8, 7)
    assert ranks(found.same_image) == [[1, 4]]
    assert ranks(found.near) == [[1, 3]]
    assert steps == [(done, 7) for done in range(1, 8)]


def test_only_the_best_are_looked_at_but_copies_are_counted_in_all(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", SAMPLES)
    found, _ = looked(run, 3)
    assert (found.best, ranks(found.same_image), ranks(found.near)) == (3, [], [[1, 3]])
    assert ranks(found.copies) == [[2, 7]]
    monkeypatch.setattr(module, "MOST_BEST", 2)
    found, _ = looked(run, 8)
    assert (found.best, found.near.groups) == (2, 0)


def test_the_largest_groups_are_listed_first(tmp_path):
    samples = [Sample(f"{group}", photo(group), "?") for group, times in ((0, 2), (1, 4), (2, 3)) for _ in range(times)]
    found, _ = looked(write_run(tmp_path / "run", samples), 9, most=2)
    assert (found.copies.groups, found.copies.rows) == (3, 9)
    assert ranks(found.copies) == [[3, 4, 5, 6], [7, 8, 9]]
    assert found.near.groups == 0  # copies of one sample are one


def test_of_copies_the_best_stands_for_the_sample(tmp_path):
    samples = [Sample("?", photo(0), "one"), Sample("?", photo(0), "one"), Sample("?", photo(0), "another")]
    found, _ = looked(write_run(tmp_path / "run", samples), 3)
    assert (ranks(found.copies), ranks(found.same_image)) == ([[1, 2]], [[1, 3]])


def brute(bits, squares, texts) -> list[list[int]]:
    """Every pair by itself; groups by joining what touches."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    n = len(texts)
    close = [
        (one, other)
        for one in range(n)
        for other in range(one + 1, n)
        if bin(int(bits[one]) ^ int(bits[other])).count("1") <= MOST_BITS
        and np.abs(squares[one].astype(int) - squares[other].astype(int)).max() <= MOST_COLOUR
    ]
    among = sorted({place for pair in close for place in pair})
    group = list(range(n))
    if among:
        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit_transform(
            [texts[place] for place in among]
        )
        cosine = dict(zip(among, vectors.toarray(), strict=True))
        for one, other in close:
            if cosine[one] @ cosine[other] >= 0.9:
                old, new = group[other], group[one]
                group = [new if each == old else each for each in group]
    found = [[place for place in range(n) if group[place] == number] for number in sorted(set(group))]
    return sorted(each for each in found if len(each) > 1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block", [3, 128])
def test_near_groups_are_those_of_all_pairs(seed, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(seed)
    n = 24
    bases = rng.integers(0, 2**63, 4, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(bit) for bit in rng.integers(0, 64, rng.integers(0, 4))) for _ in range(n)], np.uint64
    )
    bits = bases[rng.integers(0, 4, n)] ^ flips
    squares = (100 + rng.integers(0, 30, (n, 48))).astype(np.uint8)
    texts = [
        f"what is in picture {rng.integers(3)}? a {('red', 'blue')[rng.integers(2)]} thing at the side"
        for _ in range(n)
    ]
    expected = brute(bits, squares, texts)
    assert sorted(near_groups(bits, squares, texts)) == expected


def test_colour_tells_apart_what_the_hash_does_not():
    bits = np.zeros(2, np.uint64)
    texts = ["the same text"] * 2
    red, blue = np.array([255, 0, 0] * 16, np.uint8), np.array([0, 0, 255] * 16, np.uint8)
    assert near_groups(bits, np.stack([red, red]), texts) == [[0, 1]]
    assert near_groups(bits, np.stack([red, blue]), texts) == []
    assert near_groups(np.empty(0, np.uint64), np.empty((0, 48), np.uint8), []) == []
