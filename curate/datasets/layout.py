"""What a named data set is: where its files are, and which columns make a sample or a document."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from curate.errors import BadRow, MissingField, WrongType

Row = Mapping[str, object]


@dataclass(frozen=True)
class Fields:
    """The four parts of a row, not yet checked: text cells and an image cell."""

    question: object
    image: object
    chosen: object
    rejected: object


class Piece(NamedTuple):
    """One part of a document, not yet checked."""

    kind: Literal["text", "image"]
    cell: object


@dataclass(frozen=True)
class Listing:
    """What every named data set has.

    Attributes:
        name: what `--dataset` takes.
        summary: one line for `curate datasets`.
        repo: the data set's id on the Hugging Face hub.
        patterns: for each split, the glob of its files in the repository.
        columns: the columns that are read.
    """

    name: str
    summary: str
    repo: str
    patterns: Mapping[str, str]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Layout(Listing):
    """A data set of preferences.

    Attributes:
        fields: picks the four parts out of a row; raises SampleError where the row names none.
        image: the one of the columns that holds the image.
    """

    fields: Callable[[Row], Fields]
    image: str = "image"


@dataclass(frozen=True)
class DocumentLayout(Listing):
    """A data set of documents. On the hub its files are numbered: the patterns' `*` stands for `00000-of-01650`.

    Attributes:
        pieces: the parts of a row's document in their order; raises SampleError where the row holds none.
        image_folders: where below the data's folder image files are looked for, the first that has one counting.
    """

    pieces: Callable[[Row], list[Piece]]
    image_folders: tuple[str, ...] = ("",)


def chosen_and_rejected(row: Row) -> Fields:
    """The parts of a row whose columns are called `question, image, chosen, rejected`."""
    return Fields(row["question"], row["image"], row["chosen"], row["rejected"])


def interleaved(images: str, texts: str, row: Row) -> list[Piece]:
    """The pieces of two lists that run side by side, each place of which holds an image or a text, as in OBELICS.

    Raises:
        MissingField, WrongType: a column holds no list, or a place both or neither.
        BadRow: the lists differ in length.
    """
    columns = []
    for name in (images, texts):
        if row[name] is None:
            raise MissingField(f"the {name} are null")
        if not isinstance(cells := row[name], list):
            raise WrongType(f"the {name} are a {type(cells).__name__}, not a list")
        columns.append(cells)
    if len(columns[0]) != len(columns[1]):
        raise BadRow(
            f"{len(columns[0]):,} {images} beside {len(columns[1]):,} {texts}; one of them is null at each place"
        )
    pieces = []
    for place, (image, text) in enumerate(zip(*columns, strict=True), 1):
        if (image is None) == (text is None):
            has = "neither an image nor a text" if image is None else "both an image and a text"
            raise WrongType(f"place {place:,} of {len(columns[0]):,} holds {has}")
        pieces.append(Piece("text", text) if image is None else Piece("image", image))
    return pieces


def captioned(image: str, text: str, row: Row) -> list[Piece]:
    """An image, then the text about it."""
    return [Piece("image", row[image]), Piece("text", row[text])]


def text_alone(text: str, row: Row) -> list[Piece]:
    """A text and nothing else."""
    return [Piece("text", row[text])]
