"""Samples and documents in, model inputs out: everything that happens before the device."""

from collections.abc import Iterable, Iterator, Sequence

from PIL.Image import Image

from curate.datasets.documents import Document
from curate.errors import SampleError, TooLong
from curate.manifest.rows import QuarantineRow
from curate.models.family import InputBuilder
from curate.models.inputs import ModelInputs
from curate.sample import Sample
from curate.scoring.prepare import quarantined

Part = str | Image


def model_inputs(
    items: Iterable[tuple[int, Sample | Document | SampleError]], builder: InputBuilder
) -> Iterator[ModelInputs | QuarantineRow]:
    """Build the inputs of each row: of a sample with its chosen response, of a document as a whole or in pieces.

    A document longer than the context is halved until each piece fits, so that nothing of it is lost.
    """
    for source_row, item in items:
        try:
            if isinstance(item, SampleError):
                raise item
            if isinstance(item, Sample):
                pieces = [builder.build(item.image, item.question, item.chosen)]
            else:
                pieces = list(_pieces(item.parts, builder))
        except SampleError as error:
            yield quarantined(source_row, error, item.sample_id if isinstance(item, Sample) else None)
        else:
            yield from pieces


def _pieces(parts: Sequence[Part], builder: InputBuilder) -> Iterator[ModelInputs]:
    parts = _joined(parts)
    if not parts:
        return
    try:
        yield builder.build_document(parts)
    except TooLong:
        if len(parts) == 1 and (not isinstance(parts[0], str) or len(parts[0]) == 1):
            raise
        for half in _halves(parts):
            yield from _pieces(half, builder)


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Without blank texts, and with a blank line between neighbouring ones, which are paragraphs."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and not part.strip():
            continue
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] = f"{joined[-1]}\n\n{part}"
        else:
            joined.append(part)
    return joined


def _halves(parts: Sequence[Part]) -> tuple[Sequence[Part], Sequence[Part]]:
    """Two halves of several parts, or of one text, between words where there is a space in its second quarter."""
    if len(parts) > 1:
        return parts[: len(parts) // 2], parts[len(parts) // 2 :]
    (text,) = parts
    assert isinstance(text, str)
    middle = len(text) // 2
    cut = text.rfind(" ", middle // 2, middle)
    cut = middle if cut <= 0 else cut
    return [text[:cut]], [text[cut:]]
