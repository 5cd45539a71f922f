"""What pages show of a run's samples: their texts and images, as far as the data still hold what was scored."""

import io
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pydantic import ValidationError

from curate.datasets import Dataset, DatasetSpec, open_dataset
from curate.datasets.decode import Content
from curate.datasets.images import decode_image
from curate.errors import CurateError, DataError, first_line
from curate.manifest.record import RunRecord
from curate.sample import content_id


@dataclass(frozen=True)
class RunSamples:
    """The data of a run.

    Attributes:
        dataset: None where they cannot be opened.
        unavailable: why.
    """

    dataset: Dataset | None
    unavailable: str | None = None

    def read(self, sample_ids: Mapping[int, str]) -> dict[int, Content]:
        """The contents of samples by source row; of rows that no longer hold what was scored there are none.

        Args:
            sample_ids: by source row, what the run calls them.

        Raises:
            DataError: the data cannot be read.
        """
        if self.dataset is None:
            return {}
        rows = self.dataset.rows
        places = ((row, bisect_left(rows, row)) for row in sorted(sample_ids))
        positions = [place for row, place in places if place < len(rows) and rows[place] == row]
        try:
            return {
                row: found
                for row, found in self.dataset.contents(positions)
                if isinstance(found, Content) and content_id(*found) == sample_ids[row]
            }
        except (OSError, pa.ArrowException) as error:  # a disk or network that fails
            raise DataError(f"{self.dataset.name} cannot be read: {first_line(error)}") from error


def open_samples(record: RunRecord) -> RunSamples:
    """Open the data that a run was scored on."""
    try:
        return RunSamples(open_dataset(DatasetSpec.model_validate(record.arguments["dataset"])))
    except (CurateError, ValidationError) as error:
        return RunSamples(None, str(error))


def picture(image: bytes, longest: int) -> bytes:
    """An encoded image of the data as a JPEG that a browser may be given: decoded and encoded anew.

    Args:
        longest: its longer side at most, in pixels.

    Raises:
        SampleError: it cannot be decoded.
    """
    shown = decode_image(image)
    shown.thumbnail((longest, longest))
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=82)
    return file.getvalue()
