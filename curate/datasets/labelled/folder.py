"""Images in a folder of each class, as ImageNet has them: CLASS/NAME.jpg, or SPLIT/CLASS/NAME.jpg."""

from pathlib import Path

from PIL.Image import Image
from upath import UPath

from curate.datasets.images import decode_image, image_bytes
from curate.datasets.labelled.labelled import LabelledImages, asked
from curate.errors import ConfigurationError
from curate.fingerprint import files_sha256

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".j2k", ".avif")
# As Kaggle's copy of ImageNet has it: "n01440764 tench, Tinca tinca".
SYNSETS = "LOC_synset_mapping.txt"


def open_folder(folder: UPath, split: str) -> LabelledImages:
    """The images of a folder; those of a split, where its folders are named so.

    A class is called as its folder is, underscores aside, or as `LOC_synset_mapping.txt` beside the folders says; of
    several that would be called the same, each with its folder's name.

    Raises:
        ConfigurationError: fewer than two classes have images.
    """
    inside = folder / split
    # A class, too, may be called as a split is.
    root = inside if inside.is_dir() and any(entry.is_dir() for entry in inside.iterdir()) else folder
    names = _names(folder)
    found = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in sorted(root.iterdir(), key=lambda entry: entry.name)
        if entry.is_dir() and not entry.name.startswith(".")
    }
    found = {name: files for name, files in found.items() if files}
    if len(found) < 2:
        raise ConfigurationError(
            f"{root} has images in {len(found)} folders, and there are two classes at least: CLASS/NAME.jpg "
            f"({', '.join(SUFFIXES)}), or SPLIT/CLASS/NAME.jpg with --split; curate demo export writes one, called "
            "shapes"
        )
    files = [(label, file) for label, name in enumerate(found) for file in found[name]]
    called = [names.get(name, name.replace("_", " ")) for name in found]
    # ImageNet has two cranes.
    classes = tuple(
        f"{name} ({own})" if called.count(name) > 1 else name for name, own in zip(called, found, strict=True)
    )
    ids = tuple(f"{file.parent.name}/{file.name}" for _, file in files)

    def decode(place: int) -> Image:
        return decode_image(image_bytes(ids[place], root))

    return LabelledImages(
        name=Path(str(folder)).name,
        classes=classes,
        labels=tuple(label for label, _ in files),
        ids=ids,
        # A link that leads nowhere, or a pipe, is listed, and left out when it is read.
        sha256=lambda: files_sha256(root, [file for _, file in files if file.is_file()]),
        decode=decode,
        question=asked,
        answer=lambda _, label: classes[label],
    )


def _names(folder: UPath) -> dict[str, str]:
    file = folder / SYNSETS
    if not file.is_file():
        return {}
    lines = (line.partition(" ") for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    return {synset: names.partition(",")[0].strip() for synset, _, names in lines}
