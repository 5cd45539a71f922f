"""The samples of the pages that were looked at last, so that each image is read from the data once."""

import threading
from collections import OrderedDict
from collections.abc import Mapping

from curate.datasets.decode import Content
from curate.errors import DataError
from curate.report.samples import RunSamples

_MOST_BYTES = 64 * 2**20


class Contents:
    """Reads samples, and keeps up to 64 MiB of them.

    Args:
        samples: the data of the run.
    """

    def __init__(self, samples: RunSamples) -> None:
        self.unavailable = samples.unavailable  # why the last page has no texts and images, if it has none
        self._samples = samples
        self._kept: OrderedDict[int, Content] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, sample_ids: Mapping[int, str]) -> dict[int, Content]:
        """As of `RunSamples.read`."""
        with self._lock:
            found = {row: self._kept[row] for row in sample_ids if row in self._kept}
            if missing := {row: name for row, name in sample_ids.items() if row not in found}:
                try:
                    read = self._samples.read(missing)
                except DataError as error:
                    self.unavailable = str(error)
                    return found
                found |= read
                self._keep(read)
            self.unavailable = self._samples.unavailable
            return found

    def _keep(self, read: Mapping[int, Content]) -> None:
        self._kept.update(read)
        size = sum(map(_size, self._kept.values()))
        while size > _MOST_BYTES:
            _, content = self._kept.popitem(last=False)
            size -= _size(content)


def _size(content: Content) -> int:
    return sum(map(len, content))
