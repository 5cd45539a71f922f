"""A sample's texts and image as a page shows them, whatever they hold."""

import base64
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from curate.datasets.decode import Content
from curate.errors import SampleError
from curate.report.samples import RunSamples, picture

_AT_ONCE = 64  # samples whose encoded images are held together
SHOWN_CHARACTERS, MORE_CHARACTERS = 400, 6_000
_NOT_WORTH_OPENING = 200  # characters that are shown at once, too, where no more follow


@dataclass(frozen=True)
class Text:
    """A text: its beginning, what a reader can open, and how many characters are left out."""

    beginning: str
    more: str
    left_out: int


@dataclass(frozen=True)
class Shown:
    """A sample's content.

    Attributes:
        image: a `data:` URL; None where it cannot be decoded.
        image_error: why.
    """

    question: Text
    chosen: Text
    rejected: Text
    image: str | None
    image_error: str | None


def text(whole: str) -> Text:
    """A text of data, without control characters, which HTML has no place for."""
    clean = "".join(
        each if unicodedata.category(each) not in ("Cc", "Cs") or each in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for each in whole[: SHOWN_CHARACTERS + MORE_CHARACTERS]
    )
    shown = SHOWN_CHARACTERS if len(clean) > SHOWN_CHARACTERS + _NOT_WORTH_OPENING else len(clean)
    return Text(clean[:shown], clean[shown:], len(whole) - len(clean))


def contents(samples: RunSamples, sample_ids: Mapping[int, str]) -> Iterator[tuple[int, Content]]:
    """What samples hold, by source row, some at a time; those that changed are left out.

    Raises:
        DataError: the data cannot be read.
    """
    rows = sorted(sample_ids)
    for start in range(0, len(rows), _AT_ONCE):
        yield from samples.read({row: sample_ids[row] for row in rows[start : start + _AT_ONCE]}).items()


def shown(content: Content, longest: int) -> Shown:
    """A sample for the page.

    Args:
        longest: of the image's longer side, in pixels.
    """
    image, image_error = None, None
    try:
        image = "data:image/jpeg;base64," + base64.b64encode(picture(content.image, longest)).decode()
    except SampleError as error:
        image_error = str(error)
    return Shown(text(content.asked), text(content.chosen), text(content.rejected), image, image_error)
