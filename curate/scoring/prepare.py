"""Samples in, batches of model inputs out: everything that happens before the device."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Literal, TypeVar

from curate.errors import SampleError
from curate.manifest.rows import QuarantineRow
from curate.models.family import InputBuilder, ModelInputs
from curate.sample import Sample

Text = Literal["prompt+chosen", "prompt", "prompt+rejected"]
S = TypeVar("S", bound=Sized)  # whose length is its tokens


@dataclass(frozen=True)
class Prepared:
    """A sample ready for its model; its texts and image are no longer needed."""

    sample_id: str
    source_row: int
    quality: str | None
    inputs: ModelInputs

    def __len__(self) -> int:
        """Its tokens."""
        return len(self.inputs.input_ids)


def quarantined(source_row: int, error: SampleError, sample_id: str | None = None) -> QuarantineRow:
    """The quarantine row of an error."""
    return QuarantineRow(source_row, sample_id or error.sample_id, error.stage, type(error).__name__, str(error))


def prepare(
    samples: Iterable[tuple[int, Sample | SampleError]], builder: InputBuilder, text: Text
) -> Iterator[Prepared | QuarantineRow]:
    """Build each sample's inputs: question, image and the response that `text` names."""
    for source_row, sample in samples:
        if isinstance(sample, SampleError):
            yield quarantined(source_row, sample)
            continue
        response = {"prompt+chosen": sample.chosen, "prompt": None, "prompt+rejected": sample.rejected}[text]
        try:
            inputs = builder.build(sample.image, sample.question, response)
        except SampleError as error:
            yield quarantined(source_row, error, sample.sample_id)
        else:
            yield Prepared(sample.sample_id, source_row, sample.quality, inputs)


def padded_tokens(batch: Sequence[Prepared]) -> int:
    """Tokens of a batch padded to its longest sample."""
    return len(batch) * max(map(len, batch))


def token_batches(samples: Iterable[S], budget: int) -> Iterator[list[S]]:
    """Group neighbours so that no batch, padded to its longest sample, holds more tokens than the budget.

    A sample longer than the budget is a batch by itself.
    """
    batch: list[S] = []
    longest = 0
    for sample in samples:
        longest = max(longest, len(sample))
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch, longest = [], len(sample)
        batch.append(sample)
    if batch:
        yield batch
