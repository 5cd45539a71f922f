"""What people say of the samples, in a file that other viewers of the run may write to as well."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from curate.manifest.annotations import Annotation, annotate, read_annotations


class Said:
    """Annotations of a run.

    Args:
        file: of annotations, which need not be there yet.
        by: who speaks here.
    """

    def __init__(self, file: Path, by: str) -> None:
        self.file, self.by = file, by
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._read: dict[str, Annotation] = {}

    def read(self, changed: Callable[[Mapping[str, Annotation]], None] | None = None) -> Mapping[str, Annotation]:
        """What holds by now.

        Args:
            changed: is told, where the file is not as it was when it was told last.

        Raises:
            DataError: as of `read_annotations`.
        """
        with self._lock:
            stamp = self._now()
            if stamp != self._stamp:
                self._read = read_annotations(self.file)
                if changed is not None:
                    changed(self._read)
                    self._stamp = stamp
            return self._read

    def say(self, sample_id: str, changed: Mapping[str, Any]) -> None:
        """Say something of a sample; errors as of `annotate`."""
        annotate(self.file, sample_id, self.by, changed)

    def _now(self) -> tuple[int, int]:
        try:
            status = self.file.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_mtime_ns, status.st_size
