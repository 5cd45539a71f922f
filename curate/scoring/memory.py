"""Batches cut to what the device's memory holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from curate.errors import OutOfMemory
from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.models.packing import packed_tokens
from curate.scoring.prepare import Prepared, quarantined
from curate.scoring.scorer import Scorer

_OTHER_WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN
)


@dataclass
class FittingScorer:
    """Scores batches whole where they fit, and in halves of halves where they do not.

    Attributes:
        too_many: the fewest tokens that ran out of memory; such batches are not tried again.
    """

    scorer: Scorer
    too_many: float = float("inf")

    def score(self, batch: Sequence[Prepared]) -> list[ScoredRow | QuarantineRow]:
        """The batch's rows in order; a sample for which memory does not suffice even alone is quarantined."""
        if len(batch) == 1 or batch_tokens(batch) < self.too_many:
            try:
                return self.scorer.score(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Only here is the failed pass's memory free: its tensors hang on the error's traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(batch) == 1:
                sample = batch[0]
                reason = OutOfMemory(f"{batch_tokens(batch):,} tokens do not fit into the device's memory")
                return [quarantined(sample.source_row, reason, sample.sample_id)]
            self.too_many = min(self.too_many, batch_tokens(batch))
        middle = len(batch) // 2
        return [*self.score(batch[:middle]), *self.score(batch[middle:])]


def batch_tokens(batch: Sequence[Prepared]) -> int:
    """The tokens that a forward pass of the batch runs."""
    return packed_tokens([text for sample in batch for text in sample.texts])


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device or the machine's own memory had no room; torch has an error of its own for the first only."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OTHER_WORDS)
