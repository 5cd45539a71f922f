"""Batches that do not fit, with the allocator's own refusal: split, the culprit found, the limit remembered."""

from dataclasses import dataclass, field

import pytest
import torch

from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.models.inputs import ModelInputs
from curate.scoring.memory import FittingScorer, batch_tokens
from curate.scoring.prepare import Prepared


@dataclass
class Device:
    """Scores what holds up to `room` tokens, and asks the allocator for a petabyte otherwise."""

    room: int
    tried: list[int] = field(default_factory=list)

    def score(self, batch) -> list[ScoredRow]:
        self.tried.append(batch_tokens(batch))
        if batch_tokens(batch) > self.room:
            torch.empty(2**50)
        return [ScoredRow(s.sample_id, s.source_row, {}, 1, 1, False, 0, None, []) for s in batch]


def sample(row: int, tokens: int) -> Prepared:
    ids = torch.zeros(tokens, dtype=torch.long)
    return Prepared(f"{row:032x}", row, None, ModelInputs(ids, ids.bool(), {}))


def test_only_the_sample_that_does_not_fit_alone_is_quarantined():
    batch = [sample(row, 500 if row == 5 else 10) for row in range(8)]
    rows = FittingScorer(Device(room=100)).score(batch)  # type: ignore[arg-type]
    assert [row.source_row for row in rows] == list(range(8))
    lost = [row for row in rows if isinstance(row, QuarantineRow)]
    assert [(row.source_row, row.error, row.stage, row.sample_id) for row in lost] == [
        (5, "OutOfMemory", "score", f"{5:032x}")
    ]
    assert "500 tokens do not fit" in lost[0].reason


def test_what_did_not_fit_is_not_tried_again():
    device = Device(room=100)
    scorer = FittingScorer(device)  # type: ignore[arg-type]
    batch = [sample(row, 30) for row in range(8)]
    assert len(scorer.score(batch)) == 8
    assert device.tried == [240, 120, 60, 60, 60, 60]
    device.tried.clear()
    assert len(scorer.score(batch)) == 8
    assert device.tried == [60, 60, 60, 60]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken:
        def score(self, batch):
            raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        FittingScorer(Broken()).score([sample(0, 3)])  # type: ignore[arg-type]
