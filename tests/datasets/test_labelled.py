"""Labelled images: what each set holds, against files written here and against scikit-learn; draws; hostile files."""

import os
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from sklearn.datasets import load_digits

from curate.datasets.labelled import NAMED, LabelledSpec, open_labelled
from curate.datasets.labelled.cifar100 import NAMES
from curate.errors import BadImagePath, ConfigurationError, CorruptImage, DataError, ImageBomb, MissingImage
from tests.hostile.images import bomb, encoded, plain

RNG = np.random.default_rng(0)
DIGITS = open_labelled(LabelledSpec(name="digits"))
KNOWN: Any = load_digits()


def write_cifar(folder, train: int = 6, test: int = 4, names: str = "apple\naquarium_fish\nbaby\n"):
    """CIFAR-100's binary version with three fine and two coarse labels; the pixels that it holds, by split."""
    folder.mkdir(exist_ok=True)
    (folder / NAMES).write_text(names)
    (folder / "coarse_label_names.txt").write_text("fish\nother\n")
    pixels = {}
    for split, n in (("train", train), ("test", test)):
        pixels[split] = RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        records = [
            bytes([place % 2, place % 3]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            for place, image in enumerate(pixels[split])
        ]
        (folder / f"{split}.bin").write_bytes(b"".join(records))
    return pixels


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_100_is_read_by_its_fine_labels_channel_by_channel(tmp_path, split):
    pixels = write_cifar(tmp_path / "cifar")[split]
    images = open_labelled(LabelledSpec(name=str(tmp_path / "cifar"), split=split))
    assert images.classes == ("apple", "aquarium fish", "baby")
    assert images.labels == tuple(place % 3 for place in range(len(pixels)))
    assert len(set(images.ids)) == len(images.ids)
    assert all(split in name for name in images.ids)
    for place, expected in enumerate(pixels):
        found = images.decode(place)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), expected)
    assert images.answer(0, 1) == "aquarium fish"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "train.bin").unlink(), DataError, "not a whole CIFAR-100"),
        (lambda folder: (folder / "train.bin").write_bytes(b""), DataError, "0 bytes"),
        (lambda folder: (folder / "train.bin").write_bytes(bytes(3073)), DataError, "no whole records of 3,074"),
        (lambda folder: (folder / NAMES).write_text("apple\nfish\n"), DataError, "fine label 2"),
        (lambda folder: (folder / NAMES).write_bytes(b"\xff\xfe\xff"), DataError, "not a whole CIFAR-100"),
    ],
    ids=["no file", "empty", "cut off", "unknown label", "not UTF-8"],
)
def test_a_damaged_cifar_100_is_refused(tmp_path, damage, error, message):
    write_cifar(tmp_path / "cifar")
    damage(tmp_path / "cifar")
    with pytest.raises(error, match=message):
        open_labelled(LabelledSpec(name=str(tmp_path / "cifar")))


def test_cifar_100_has_no_other_split(tmp_path):
    write_cifar(tmp_path / "cifar")
    with pytest.raises(ConfigurationError, match="train and test"):
        open_labelled(LabelledSpec(name=str(tmp_path / "cifar"), split="val"))


def test_what_a_set_holds_decides_its_hash(tmp_path):
    write_cifar(tmp_path / "a")
    for name, content in (("b", "test.bin"), ("c", "train.bin")):
        (tmp_path / name).mkdir()
        for file in (tmp_path / "a").iterdir():
            data = bytearray(file.read_bytes())
            if file.name == content:
                data[5] ^= 1
            (tmp_path / name / file.name).write_bytes(data)
    a, b, c = (open_labelled(LabelledSpec(name=str(tmp_path / name))).sha256() for name in "abc")
    assert a == b != c  # another split's file is none of its own


def write_folder(folder, classes=("n01440764", "n02012849", "n03126707"), n: int = 2, suffix: str = ".JPEG"):
    """Images of a flat colour each, which says their class and place."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for place in range(n):
            data = encoded(Image.new("RGB", (8, 6), (label * 40, place * 40, 7)))
            (folder / name / f"{place:02d}{suffix}").write_bytes(data)


def test_a_folder_of_classes_is_read_in_the_order_of_names(tmp_path):
    write_folder(tmp_path / "birds", ("b_jay", "a_wren"))
    (tmp_path / "birds" / "notes.txt").write_text("no image")
    (tmp_path / "birds" / "a_wren" / "notes.txt").write_text("no image")
    (tmp_path / "birds" / ".cache").mkdir()
    (tmp_path / "birds" / ".cache" / "x.png").write_bytes(plain())
    (tmp_path / "birds" / "empty").mkdir()
    images = open_labelled(LabelledSpec(name=str(tmp_path / "birds")))
    assert images.name == "birds"
    assert images.classes == ("a wren", "b jay")
    assert images.labels == (0, 0, 1, 1)
    assert images.ids == ("a_wren/00.JPEG", "a_wren/01.JPEG", "b_jay/00.JPEG", "b_jay/01.JPEG")
    assert [images.decode(place).getpixel((0, 0)) for place in range(4)] == [
        (40, 0, 7),
        (40, 40, 7),
        (0, 0, 7),
        (0, 40, 7),
    ]


def test_imagenet_has_splits_and_names_of_synsets_of_which_two_may_be_alike(tmp_path):
    for split, n in (("train", 3), ("val", 1)):
        write_folder(tmp_path / "imagenet" / split, n=n)
    mapping = "n01440764 tench, Tinca tinca\nn02012849 crane\n\nn03126707 crane\nn09999999 none of these\n"
    (tmp_path / "imagenet" / "LOC_synset_mapping.txt").write_text(mapping)
    for split, n in (("train", 3), ("val", 1)):
        images = open_labelled(LabelledSpec(name=str(tmp_path / "imagenet"), split=split))
        assert images.classes == ("tench", "crane (n02012849)", "crane (n03126707)")
        assert Counter(images.labels) == dict.fromkeys(range(3), n)
        assert images.decode(2 * n).getpixel((0, 0)) == (80, 0, 7)
    only = open_labelled(LabelledSpec(name=str(tmp_path / "imagenet"), classes=("tench", "crane (n03126707)")))
    assert only.labels == (0, 0, 0, 1, 1, 1)
    assert only.ids[3].startswith("n03126707/")


def test_what_cannot_be_read_says_why_and_stops_nothing(tmp_path):
    folder = tmp_path / "data"
    write_folder(folder, ("a", "b"), n=1)
    (tmp_path / "secret.png").write_bytes(plain())
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "x.png").write_bytes(plain())
    (folder / "c").symlink_to(tmp_path / "others")
    (folder / "a" / "1-out.png").symlink_to(tmp_path / "secret.png")
    (folder / "a" / "2-in.png").symlink_to(folder / "b" / "00.JPEG")
    (folder / "a" / "3-nowhere.png").symlink_to(folder / "gone.png")
    (folder / "a" / "4-folder.png").mkdir()
    (folder / "a" / "5-empty.png").write_bytes(b"")
    (folder / "a" / "6-cut.png").write_bytes(encoded(Image.effect_noise((64, 64), 50))[:500])
    (folder / "a" / "7-text.png").write_text("no image at all")
    (folder / "a" / "8-bomb.png").write_bytes(bomb(60_000, 60_000))
    os.mkfifo(folder / "a" / "9-pipe.png")
    images = open_labelled(LabelledSpec(name=str(folder)))
    errors = {}
    for place, name in enumerate(images.ids):
        try:
            images.decode(place)
        except Exception as error:
            errors[name] = type(error)
    assert errors == {
        "a/1-out.png": BadImagePath,
        "a/3-nowhere.png": MissingImage,
        "a/4-folder.png": MissingImage,
        "a/5-empty.png": MissingImage,
        "a/6-cut.png": CorruptImage,
        "a/7-text.png": CorruptImage,
        "a/8-bomb.png": ImageBomb,
        "a/9-pipe.png": MissingImage,
        "c/x.png": BadImagePath,
    }
    before = images.sha256()
    (folder / "gone.png").write_bytes(plain())
    assert images.sha256() != before


@pytest.mark.parametrize("classes", [(), ("one",)])
def test_a_folder_has_two_classes_at_least(tmp_path, classes):
    (tmp_path / "data").mkdir()
    write_folder(tmp_path / "data", classes)
    with pytest.raises(ConfigurationError, match=f"images in {len(classes)} folders"):
        open_labelled(LabelledSpec(name=str(tmp_path / "data")))


def test_no_such_set_says_which_there_are(tmp_path):
    with pytest.raises(ConfigurationError, match=", ".join(NAMED)):
        open_labelled(LabelledSpec(name=str(tmp_path / "nowhere")))


def test_digits_are_those_of_scikit_learn():
    images, known = DIGITS, KNOWN
    assert len(images.labels) == len(known.target) == 1797
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert [images.classes[label] for label in images.labels] == [names[target] for target in known.target]
    for place in range(0, 1797, 97):
        grey = np.asarray(images.decode(place).convert("L"), dtype=float)
        # Dark on light; a level is 1 of 16.
        np.testing.assert_allclose((255 - grey) / 255 * 16, known.images[place], atol=16 / 255)


@pytest.mark.parametrize("name", ["demo-shapes", "demo-colours"])
def test_the_demo_shows_each_class_as_often_and_names_it_in_answers_not_in_questions(name):
    images = open_labelled(LabelledSpec(name=name, sample=24, seed=3))
    assert set(Counter(images.labels).values()) == {24 // len(images.classes)}
    for place, label in enumerate(images.labels):
        assert images.classes[label] in images.answer(place, label)
        assert images.classes[label] not in images.question(place)
    again, other = (open_labelled(LabelledSpec(name=name, sample=24, seed=seed)) for seed in (3, 4))
    assert all(images.decode(place).tobytes() == again.decode(place).tobytes() for place in range(24))
    assert any(images.decode(place).tobytes() != other.decode(place).tobytes() for place in range(24))
    assert images.sha256() == again.sha256() != other.sha256()


@given(
    st.sets(st.sampled_from(DIGITS.classes), min_size=2),
    st.integers(2, 400),
    st.integers(0, 400),
    st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_a_draw_has_so_many_images_of_each_class_alike_and_a_larger_one_has_them_too(classes, n, more, seed):
    spec = LabelledSpec(name="digits", classes=tuple(classes), sample=n, seed=seed)
    drawn, larger = open_labelled(spec), open_labelled(spec.model_copy(update={"sample": n + more}))
    there = sum(DIGITS.classes[label] in classes for label in DIGITS.labels)
    assert len(drawn.ids) == min(n, there)
    assert set(drawn.ids) <= set(larger.ids)
    assert list(drawn.ids) == sorted(set(drawn.ids))
    # At most one more of a class than of another that has more to give.
    of_class = Counter(drawn.classes[label] for label in drawn.labels)
    all_of = Counter(DIGITS.classes[label] for label in DIGITS.labels)
    most = max(of_class.values())
    assert all(of_class[name] >= min(most - 1, all_of[name]) for name in drawn.classes)
    for place in (0, len(drawn.ids) - 1):
        source = int(drawn.ids[place])
        assert drawn.classes[drawn.labels[place]] == DIGITS.classes[DIGITS.labels[source]]
        assert drawn.decode(place).tobytes() == DIGITS.decode(source).tobytes()
        assert drawn.answer(place, drawn.labels[place]) == DIGITS.answer(source, DIGITS.labels[source])


def test_only_some_classes_and_unknown_ones():
    images = open_labelled(LabelledSpec(name="digits", classes=("nine", "two")))
    assert images.classes == ("two", "nine")
    assert len(images.ids) == sum(target in (2, 9) for target in KNOWN.target)
    with pytest.raises(ConfigurationError, match="digits has no eleven"):
        open_labelled(LabelledSpec(name="digits", classes=("nine", "eleven")))


def test_a_spec_keeps_its_names_and_makes_paths_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", ("a", "b"), n=1)
    assert LabelledSpec(name="data").absolute().name == str(tmp_path / "data")
    assert LabelledSpec(name="digits").absolute().name == "digits"
