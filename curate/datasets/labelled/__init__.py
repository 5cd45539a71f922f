"""Labelled images, for what is asked of features and not of preferences. `open_labelled` opens them by a spec."""

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.datasets.labelled import cifar100, demo, digits, folder
from curate.datasets.labelled.labelled import LabelledImages
from curate.errors import ConfigurationError
from curate.storage import Location, absolute_if_there, location

NAMED = (demo.SHAPES_NAME, demo.COLOURS_NAME, digits.NAME)


class LabelledSpec(BaseModel):
    """Which images of which labelled set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Location = Field(
        default=demo.SHAPES_NAME,
        description=f"{', '.join(NAMED)}, a folder of one folder per class, or CIFAR-100's binary version",
    )
    split: str = Field(default="train", description="where the folder has folders, or CIFAR-100 files, of splits")
    classes: tuple[str, ...] | None = Field(default=None, min_length=2, description="only these classes")
    sample: int | None = Field(default=None, ge=2, description="N images drawn with the seed, all classes alike")
    seed: int = Field(default=0, description="of the draw, and of the demo's scenes")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        """A word that is neither is a slip of the pen; of a path, the machine that opens it knows."""
        if name not in NAMED and "/" not in name and not Path(name).exists():
            raise ValueError(f"{name}: neither a known set of labelled images ({', '.join(NAMED)}) nor a folder")
        return name

    def absolute(self) -> "LabelledSpec":
        """The same with a local path made absolute."""
        return self if self.name in NAMED else self.model_copy(update={"name": absolute_if_there(self.name)})


def open_labelled(spec: LabelledSpec) -> LabelledImages:
    """Find the images and their labels; decodes none.

    Raises:
        ConfigurationError: no such set, split or class.
        DataError: files are damaged.
    """
    found = _open(spec)
    places = list(range(len(found.labels)))
    if spec.classes is not None:
        if unknown := [name for name in spec.classes if name not in found.classes]:
            raise ConfigurationError(f"--classes: {found.name} has no {', '.join(unknown)}; see its folders or names")
        places = [place for place in places if found.classes[found.labels[place]] in spec.classes]
    if spec.sample is not None and spec.sample < len(places):
        places = _drawn(found, places, spec.sample, spec.seed)
    return _only(found, places)


def _open(spec: LabelledSpec) -> LabelledImages:
    if spec.name in (demo.SHAPES_NAME, demo.COLOURS_NAME):
        # Of some classes alone, enough are drawn to choose from.
        n = (spec.sample or demo.DEFAULT_IMAGES) * (len(demo.classes(spec.name)) if spec.classes else 1)
        return demo.open_demo(spec.name, n, spec.seed)
    if spec.name == digits.NAME:
        return digits.open_digits()
    path = location(spec.name)
    if not path.is_dir():
        raise ConfigurationError(
            f"--images {spec.name}: neither a known set of labelled images ({', '.join(NAMED)}) nor a folder"
        )
    opened = cifar100.open_cifar100 if cifar100.is_cifar100(path) else folder.open_folder
    return opened(path, spec.split)


def _drawn(found: LabelledImages, places: list[int], n: int, seed: int) -> list[int]:
    """So many places, of each class as many as of any other where it has them, in their order."""
    of_class: dict[int, list[int]] = defaultdict(list)
    for place in random.Random(f"labelled:{seed}").sample(places, len(places)):
        of_class[found.labels[place]].append(place)
    in_turn = sorted((turn, label, place) for label, own in of_class.items() for turn, place in enumerate(own))
    return sorted(place for _, _, place in in_turn[:n])


def _only(found: LabelledImages, places: list[int]) -> LabelledImages:
    """Some of the images, and the classes that these have."""
    kept = sorted({found.labels[place] for place in places})
    if len(kept) < 2:
        raise ConfigurationError(f"--images {found.name}: its images are of {len(kept)} class; it takes two or more")
    return replace(
        found,
        classes=tuple(found.classes[label] for label in kept),
        labels=tuple(kept.index(found.labels[place]) for place in places),
        ids=tuple(found.ids[place] for place in places),
        decode=lambda place: found.decode(places[place]),
        question=lambda place: found.question(places[place]),
        answer=lambda place, label: found.answer(places[place], kept[label]),
    )
