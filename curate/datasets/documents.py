"""What SAEs are trained and judged on: documents, or the samples of a data set of preferences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from PIL.Image import Image
from upath import UPath

from curate.datasets import (
    DEMO,
    DOCUMENTS,
    LAYOUTS,
    PARTS,
    DatasetSpec,
    Opened,
    existing_path,
    open_dataset,
    picked,
    table_layout,
)
from curate.datasets.decode import checked_text, decode_row, is_visible
from curate.datasets.files import dataset_files, table_files
from curate.datasets.images import decode_image, image_bytes
from curate.datasets.layout import DocumentLayout, Layout, Piece, Row, captioned, interleaved, text_alone
from curate.datasets.table import SUFFIXES, TableFile, inspect_files, listed, open_table
from curate.datasets.texts import TEXT_SUFFIX, TextFiles
from curate.errors import ConfigurationError, EmptyText, ImageBomb, SampleError
from curate.sample import Sample
from curate.storage import location

MAX_DOCUMENT_PIXELS = 400_000_000
FILES_AT_FIRST = 1
TEXT = DocumentLayout("text", "", "", {}, ("text",), partial(text_alone, "text"))
# In this order, after preferences, where a table has the columns of several.
_SHAPES: dict[tuple[str, ...], Callable[..., list[Piece]]] = {
    ("images", "texts"): interleaved,
    ("image", "text"): captioned,
    ("image", "caption"): captioned,
    ("text",): text_alone,
}


@dataclass(frozen=True)
class Document:
    """Texts and images in their order, decoded and checked.

    Attributes:
        source_row: position in the source, counted over the files of its split.
        parts: the texts as they are stored; the images RGB, upright.
    """

    source_row: int
    parts: tuple[str | Image, ...]


@dataclass(frozen=True)
class Corpus(Opened):
    """Opened documents or samples. Images in files of their own are not covered by the fingerprint."""

    decode: Callable[[Row, int], Sample | Document]

    def read(self, positions: Sequence[int]) -> Iterator[tuple[int, Sample | Document | SampleError]]:
        """What is at ascending positions, each with its source row; a bad row comes as its error."""
        return self._decoded(positions, self.decode)


def open_corpus(spec: DatasetSpec) -> Corpus:
    """Find the files of documents or preferences, decide what their columns make, and pick the rows; reads no row.

    A table with the columns of preferences gives samples; with `images` and `texts`, `image` and `text` or `caption`,
    or `text`, documents; and a text file is one document. Of documents on the hub the first files are fetched.

    Raises:
        ConfigurationError: no such data set, split, file or column.
        DataError: a file is damaged, or the hub cannot be reached.
    """
    if spec.name == DEMO or spec.name in LAYOUTS:
        data = open_dataset(spec)
        return Corpus(data.name, data.source, data.rows, data.root, data.files, data.decode)
    if spec.files is not None and (spec.name not in DOCUMENTS or spec.data_dir):
        raise ConfigurationError(f"--files goes with {' or '.join(DOCUMENTS)}, read from the hub")
    if spec.name in DOCUMENTS:
        if spec.columns:
            raise ConfigurationError(f"--columns goes with a table that is named by its path, not with {spec.name}")
        layout = DOCUMENTS[spec.name]
        first = None if spec.data_dir else spec.files or FILES_AT_FIRST
        root, files = dataset_files(layout, location(spec.data_dir) if spec.data_dir else None, spec.split, first)
        source = open_table(inspect_files(files), layout.columns, advice=f"Is this {layout.repo}?")
    else:
        path = existing_path(spec, (DEMO, *LAYOUTS, *DOCUMENTS))
        root, files = table_files(path, (*SUFFIXES, TEXT_SUFFIX))
        if tables := [file for file in files if file.suffix != TEXT_SUFFIX]:
            files, inspected = tables, inspect_files(tables)
            layout = _table_layout(spec, inspected)
            source = open_table(inspected, layout.columns, ("quality",) if isinstance(layout, Layout) else ())
        elif spec.columns:
            raise ConfigurationError(f"--columns does not go with {spec.name}: text files have no columns")
        else:
            layout, source = TEXT, TextFiles(tuple(files), root if path.is_dir() else None)
    decode = decode_row if isinstance(layout, Layout) else decode_document
    settled = partial(decode, layout=layout, root=root, image_size=spec.image_size)
    return Corpus(spec.name, source, picked(spec, source), root, tuple(files), settled)


def _table_layout(spec: DatasetSpec, files: Sequence[TableFile]) -> Layout | DocumentLayout:
    """What the columns that all the files have make."""
    renamed = spec.columns or {}
    there = [column for column in files[0].columns if all(column in file.columns for file in files)]
    known = dict.fromkeys(part for parts in (PARTS, *_SHAPES) for part in parts)
    if unknown := sorted(set(renamed) - set(known)):
        raise ConfigurationError(f"--columns names {', '.join(unknown)}; the parts are {', '.join(known)}")
    if missing := [column for column in renamed.values() if column not in there]:
        raise ConfigurationError(f"{spec.name} has no column {missing[0]!r}; it has: {listed(there)}")
    for parts in (PARTS, *_SHAPES):
        columns = tuple(renamed.get(part, part) for part in parts)
        if set(renamed) <= set(parts) and set(columns) <= set(there):
            if parts == PARTS:
                return table_layout(spec)
            if len(set(columns)) < len(columns):
                raise ConfigurationError("--columns gives two parts the same column")
            return DocumentLayout(spec.name, "", "", {}, columns, partial(_SHAPES[parts], *columns))
    shapes = "; ".join(" and ".join(parts) for parts in (*_SHAPES, PARTS))
    raise ConfigurationError(
        f"{spec.name} has no columns that make a document; it has: {listed(there)}. "
        f"Name them with --columns, such as text=…; what can be named: {shapes}"
    )


def decode_document(
    row: Row, source_row: int, layout: DocumentLayout, root: UPath | None, image_size: int | None
) -> Document:
    """Check and decode one row: `decode_row`, for documents.

    Raises:
        SampleError: the row holds no document, or a part of it is bad; of several, the reason says which.
    """
    pieces = layout.pieces(row)
    total, number = {"image": 0, "text": 0}, {"image": 0, "text": 0}
    for kind, _ in pieces:
        total[kind] += 1
    parts: list[str | Image] = []
    pixels = 0
    for kind, cell in pieces:
        number[kind] += 1
        where = f"{kind} {number[kind]:,} of {total[kind]:,}" if total[kind] > 1 else kind
        if kind == "text":
            parts.append(checked_text(where, cell))
            continue
        try:
            image = decode_image(image_bytes(cell, root, layout.image_folders), image_size)
            pixels += image.width * image.height
            if pixels > MAX_DOCUMENT_PIXELS:
                raise ImageBomb(f"with those before it over {MAX_DOCUMENT_PIXELS:,} pixels, more than are read at once")
        except SampleError as error:
            raise type(error)(f"{where}: {error}" if total[kind] > 1 else str(error)) from error
        parts.append(image)
    if not any(not isinstance(part, str) or is_visible(part) for part in parts):
        raise EmptyText("the document has no visible character and no image")
    return Document(source_row, tuple(parts))
