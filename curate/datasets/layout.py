"""What a named data set is: where its files are and which columns make a sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Row = Mapping[str, object]


@dataclass(frozen=True)
class Fields:
    """The four parts of a row, not yet checked: text cells and an image cell."""

    question: object
    image: object
    chosen: object
    rejected: object


@dataclass(frozen=True)
class Layout:
    """A data set's layout.

    Attributes:
        name: what `--dataset` takes.
        summary: one line for `curate datasets`.
        repo: the data set's id on the Hugging Face hub.
        patterns: for each split, the glob of its files in the repository.
        columns: the columns that `fields` reads; image: the one of them that holds the image.
        fields: picks the four parts out of a row; raises SampleError where the row names none.
    """

    name: str
    summary: str
    repo: str
    patterns: Mapping[str, str]
    columns: tuple[str, ...]
    fields: Callable[[Row], Fields]
    image: str = "image"


def chosen_and_rejected(row: Row) -> Fields:
    """The parts of a row whose columns are called `question, image, chosen, rejected`."""
    return Fields(row["question"], row["image"], row["chosen"], row["rejected"])
