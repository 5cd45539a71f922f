"""Samples in, batches of model inputs out: everything that happens before the device."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from curate.errors import SampleError
from curate.manifest.rows import QuarantineRow
from curate.metrics.metric import Likely
from curate.models.family import InputBuilder
from curate.models.inputs import ModelInputs
from curate.models.packing import packed_tokens
from curate.sample import Sample
from curate.scoring.parameters import SCORED, Text

S = TypeVar("S", bound=Sized)  # whose length is its tokens


@dataclass(frozen=True)
class Prepared:
    """A sample ready for its model; its texts and image are no longer needed.

    Attributes:
        inputs: the text that is scored.
        others: the other texts that are needed, by their responses.
    """

    sample_id: str
    source_row: int
    quality: str | None
    inputs: ModelInputs
    others: Mapping[Likely, ModelInputs] = field(default_factory=dict)

    @property
    def texts(self) -> list[ModelInputs]:
        """All of its texts."""
        return [self.inputs, *self.others.values()]

    def __len__(self) -> int:
        """The tokens that are run, where no other sample is about the same image."""
        return packed_tokens(self.texts)


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
    scored = SCORED[text]
    second: tuple[Likely, ...] = ("rejected",) if text == "both" else ()
    wanted: dict[Likely | None, None] = dict.fromkeys((scored, *second, *likelihood_of))
    for source_row, sample in samples:
        if isinstance(sample, SampleError):
            yield quarantined(source_row, sample)
            continue
        responses = {None: None, "chosen": sample.chosen, "rejected": sample.rejected}
        built: dict[Likely | None, ModelInputs] = {}
        try:
            for name in wanted:
                if name == "alone":
                    # What needs it needs the chosen response after its prompt, too.
                    built[name] = response_alone(built["chosen"], builder)
                else:
                    built[name] = builder.build(sample.image, sample.question, responses[name])
        except SampleError as error:
            yield quarantined(source_row, error, sample.sample_id)
        else:
            others: dict[Likely, ModelInputs] = {
                name: inputs for name, inputs in built.items() if name is not None and name != scored
            }
            yield Prepared(sample.sample_id, source_row, sample.quality, built[scored], others)


def response_alone(inputs: ModelInputs, builder: InputBuilder) -> ModelInputs:
    """The tokens of a conversation's response after BOS, or after EOS where the tokenizer has no BOS."""
    first = builder.eos_token_id if builder.bos_token_id is None else builder.bos_token_id
    assert first is not None, "a tokenizer that can neither begin nor end a sequence"
    ids = torch.cat([torch.tensor([first]), inputs.input_ids[len(inputs.input_ids) - inputs.n_response :]])
    return ModelInputs(ids, torch.zeros_like(ids, dtype=torch.bool), {}, inputs.n_response)


def token_batches(samples: Iterable[S], budget: int) -> Iterator[list[S]]:
    """Group neighbours so that no batch holds more tokens than the budget.

    A sample longer than the budget is a batch by itself.
    """
    batch: list[S] = []
    tokens = 0
    for sample in samples:
        tokens += len(sample)
        if batch and tokens > budget:
            yield batch
            batch, tokens = [], len(sample)
        batch.append(sample)
    if batch:
        yield batch
