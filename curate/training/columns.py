"""Samples as TRL's columns, read when they are asked for, and collated as the model was scored on them.

TRL's own collators tokenize prompt and response apart, without a BOS: with many tokenizers that is not what the model
reads when it answers. Here the model's builder makes one sequence of both, as everywhere in curate.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from curate.datasets import Dataset
from curate.models.family import InputBuilder
from curate.models.inputs import ModelInputs
from curate.training.job import Method
from curate.training.samples import responses, scored_samples

if TYPE_CHECKING:
    import datasets

Example = dict[str, Any]
Collator = Callable[[Sequence[Example]], dict[str, Tensor]]
IGNORED = -100  # a label without loss


def as_columns(dataset: Dataset, samples: pa.Table, method: Method) -> "datasets.Dataset":
    """TRL's columns of samples: `prompt`, `images`, and `completion` (sft) or `chosen` and `rejected` (dpo).

    Texts and images are read anew at each access, so that memory holds a batch and no file holds a copy that could
    go stale.

    Args:
        samples: of `SAMPLES_SCHEMA`.
    """
    import datasets

    def read(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        block = list(zip(rows["position"], rows["sample_id"], strict=True))
        once = sorted(set(block))  # several workers fill up the last batch with samples that it has
        found = dict(zip(once, scored_samples(dataset, once), strict=True))
        examples = [
            {"prompt": sample.question, "images": [sample.image], **responses(sample, method)}
            for sample in map(found.__getitem__, block)
        ]
        return {name: [example[name] for example in examples] for name in examples[0]}

    named = {name: samples[name].to_pylist() for name in ("position", "sample_id")}
    return datasets.Dataset.from_dict(named).with_transform(read)


def collator(builder: InputBuilder, method: Method) -> Collator:
    """Examples into what TRL's trainer takes; for dpo all chosen responses come before all rejected ones."""

    def built(examples: Sequence[Example], response: str) -> list[ModelInputs]:
        return [builder.build(example["images"][0], example["prompt"], example[response]) for example in examples]

    def sft(examples: Sequence[Example]) -> dict[str, Tensor]:
        batch = padded(built(examples, "completion"))
        completion = batch.pop("completion_mask")
        return {**batch, "labels": batch["input_ids"].masked_fill(completion == 0, IGNORED)}

    def dpo(examples: Sequence[Example]) -> dict[str, Tensor]:
        return padded([*built(examples, "chosen"), *built(examples, "rejected")])

    return sft if method == "sft" else dpo


def padded(batch: Sequence[ModelInputs]) -> dict[str, Tensor]:
    """A batch padded on the right.

    Returns:
        input_ids, attention_mask and completion_mask, each [batch, longest], and the images' tensors one after another.
    """
    masks = [torch.ones_like(inputs.input_ids) for inputs in batch]
    completions = [
        torch.arange(len(mask)) >= len(mask) - inputs.n_response for inputs, mask in zip(batch, masks, strict=True)
    ]
    together = {
        "input_ids": pad_sequence([inputs.input_ids for inputs in batch], batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
        "completion_mask": pad_sequence([completion.long() for completion in completions], batch_first=True),
    }
    return together | {name: torch.cat([inputs.tensors[name] for inputs in batch]) for name in batch[0].tensors}
