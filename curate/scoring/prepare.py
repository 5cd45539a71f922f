"""Samples in, batches of model inputs out: everything that happens before the device."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch

from curate.errors import SampleError
from curate.manifest.rows import QuarantineRow
from curate.metrics.metric import Likely
from curate.models.family import InputBuilder, ModelInputs
from curate.sample import Sample

Text = Literal["prompt+chosen", "prompt", "prompt+rejected"]
# The text that is scored, as one whose likelihood may be needed.
SCORED: dict[Text, Likely | None] = {"prompt+chosen": "chosen", "prompt": None, "prompt+rejected": "rejected"}
S = TypeVar("S", bound=Sized)  # whose length is its tokens


@dataclass(frozen=True)
class Prepared:
    """A sample ready for its model; its texts and image are no longer needed.

    Attributes:
        inputs: the text that is scored.
        likely: the texts whose likelihood is needed, as far as they are others than that.
    """

    sample_id: str
    source_row: int
    quality: str | None
    inputs: ModelInputs
    likely: Mapping[Likely, ModelInputs] = field(default_factory=dict)

    def __len__(self) -> int:
        """The tokens of its longest text."""
        return max(len(inputs.input_ids) for inputs in (self.inputs, *self.likely.values()))


def quarantined(source_row: int, error: SampleError, sample_id: str | None = None) -> QuarantineRow:
    """The quarantine row of an error."""
    return QuarantineRow(source_row, sample_id or error.sample_id, error.stage, type(error).__name__, str(error))


def prepare(
    samples: Iterable[tuple[int, Sample | SampleError]],
    builder: InputBuilder,
    text: Text,
    likelihood_of: Sequence[Likely] = (),
) -> Iterator[Prepared | QuarantineRow]:
    """Build each sample's inputs: question, image and the response that `text` names; and the others needed."""
    for source_row, sample in samples:
        if isinstance(sample, SampleError):
            yield quarantined(source_row, sample)
            continue
        response = {"prompt+chosen": sample.chosen, "prompt": None, "prompt+rejected": sample.rejected}[text]
        try:
            inputs = builder.build(sample.image, sample.question, response)
            likely = _likely(sample, builder, {SCORED[text]: inputs}, likelihood_of)
        except SampleError as error:
            yield quarantined(source_row, error, sample.sample_id)
        else:
            yield Prepared(sample.sample_id, source_row, sample.quality, inputs, likely)


def _likely(
    sample: Sample, builder: InputBuilder, built: dict[Likely | None, ModelInputs], likelihood_of: Sequence[Likely]
) -> dict[Likely, ModelInputs]:
    """The texts whose likelihood is needed, but for one that is built already."""
    found: dict[Likely, ModelInputs] = {}
    responses: dict[Likely, str] = {"chosen": sample.chosen, "rejected": sample.rejected}
    for name, response in responses.items():
        if name in likelihood_of and name not in built:
            found[name] = builder.build(sample.image, sample.question, response)
    if "alone" in likelihood_of:
        found["alone"] = response_alone({**built, **found}["chosen"], builder)
    return found


def response_alone(inputs: ModelInputs, builder: InputBuilder) -> ModelInputs:
    """The tokens of a conversation's response after BOS, or after EOS where the tokenizer has no BOS."""
    first = builder.eos_token_id if builder.bos_token_id is None else builder.bos_token_id
    assert first is not None, "a tokenizer that can neither begin nor end a sequence"
    ids = torch.cat([torch.tensor([first]), inputs.input_ids[len(inputs.input_ids) - inputs.n_response :]])
    return ModelInputs(ids, torch.zeros_like(ids, dtype=torch.bool), {}, inputs.n_response)


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
