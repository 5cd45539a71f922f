"""One row in, one checked sample out, or the error that sends the row to quarantine."""

import unicodedata
from typing import NamedTuple

from upath import UPath

from curate.datasets.images import decode_image, image_bytes
from curate.datasets.layout import Layout, Row
from curate.errors import EmptyText, MissingField, NotUtf8, SampleError, WrongType
from curate.sample import Sample, content_id

IMAGE_PLACEHOLDER = "<image>"
_TEXTS = ("question", "chosen", "rejected")


class Content(NamedTuple):
    """A row's parts as stored: what its id is a hash of. The image is encoded."""

    question: str
    image: bytes
    chosen: str
    rejected: str

    @property
    def asked(self) -> str:
        """The question without image placeholders: the chat template puts in the one that there is."""
        return self.question.replace(IMAGE_PLACEHOLDER, "").strip()


def decode_row(row: Row, source_row: int, layout: Layout, root: UPath | None, image_size: int | None) -> Sample:
    """Check and decode one row.

    Args:
        row: the cells of the layout's columns.
        source_row: its position in the source.
        root: the folder that image paths are relative to.
        image_size: see `decode_image`.

    Raises:
        SampleError: the row cannot be scored; carries the sample's id if its content is all there.
    """
    content = read_content(row, layout, root)
    _, data, chosen, rejected = content
    sample_id = content_id(*content)
    try:
        question = content.asked
        for name, text in (("question", question), ("chosen", chosen), ("rejected", rejected)):
            if not is_visible(text):
                raise EmptyText(f"the {name} has no visible character")
        image = decode_image(data, image_size)
    except SampleError as error:
        error.sample_id = sample_id
        raise
    quality = row.get("quality")
    label = None if quality is None else str(quality).encode(errors="replace").decode()
    return Sample(sample_id, source_row, question, image, chosen, rejected, label)


def read_content(row: Row, layout: Layout, root: UPath | None) -> Content:
    """The row's parts, as stored.

    Raises:
        SampleError: a part is missing or of another type.
    """
    fields = layout.fields(row)
    question, chosen, rejected = (checked_text(name, getattr(fields, name)) for name in _TEXTS)
    return Content(question, image_bytes(fields.image, root), chosen, rejected)


def checked_text(name: str, value: object) -> str:
    """A text cell, called `name` in messages.

    Raises:
        MissingField, WrongType, NotUtf8.
    """
    if value is None:
        raise MissingField(f"the {name} is null")
    if not isinstance(value, str):
        raise WrongType(f"the {name} is a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotUtf8(f"the {name} holds a lone surrogate at character {error.start}") from error
    return value


def is_visible(text: str) -> bool:
    """Whether the text has a letter, digit, sign or symbol."""
    return any(unicodedata.category(character)[0] in "LNPS" for character in text)
