"""Text files, each of them one row."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upath import UPath

from curate.datasets.layout import Row
from curate.errors import BadRow, NotUtf8, SampleError

TEXT_SUFFIX = ".txt"
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class TextFiles:
    """Files whose content is the column `text`. Cheap to pickle, so any worker can read any of them.

    Attributes:
        root: the folder that no link may lead out of; None where the one file was named itself.
    """

    files: tuple[UPath, ...]
    root: UPath | None

    @property
    def n_rows(self) -> int:
        return len(self.files)

    def may_hold_text(self, column: str) -> bool:
        """Whether it is the one column there is."""
        return column == "text"

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, Row | SampleError]]:
        """The files at these positions, each with its position; one that cannot be read comes as its error."""
        for row in rows:
            try:
                yield row, {"text": _text(self.files[row], self.root)}
            except SampleError as error:
                yield row, error


def _text(path: UPath, root: UPath | None) -> str:
    try:
        if root is not None and not path.resolve().is_relative_to(root.resolve()):
            raise BadRow(f"{path.name} is a link that leads out of the data folder")
        if path.stat().st_size > MAX_BYTES:
            raise BadRow(f"{path.name} has over {MAX_BYTES // 2**20} MiB; make several documents of it")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUtf8(f"{path.name} is not UTF-8 at byte {error.start}") from error
    except OSError as error:
        # Anything else is a fault of the disk or network, and not of the file.
        if not isinstance(error, FileNotFoundError) and error.errno not in (errno.EACCES, errno.ELOOP):
            raise
        raise BadRow(f"{path.name} cannot be read ({error.strerror})") from error
