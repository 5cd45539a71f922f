"""Figures of a stage from the work of its actors."""

from dataclasses import fields

import numpy as np

from curate.pipeline import meter
from curate.pipeline.meter import COUNTERS, Meter, Work, throughput


def test_figures_are_those_of_the_work():
    one = Work(batches=2, samples=30, tokens=600, shared_tokens=200, busy_seconds=3, idle_seconds=1, queued_seconds=9)
    two = Work(batches=1, samples=10, tokens=300, shared_tokens=100, busy_seconds=3, idle_seconds=1, queued_seconds=11)
    found = throughput(one + two, seconds=10.0, quarantined=7)
    assert (found.samples, found.tokens, found.quarantined) == (40, 900, 7)
    assert (found.samples_per_second, found.tokens_per_second) == (4.0, 90.0)
    assert found.shared_share == 0.25
    assert found.busy_share == 0.75
    assert found.queued_batches == 2.0
    nothing = throughput(Work(), seconds=1.0, quarantined=0)
    assert (nothing.shared_share, nothing.busy_share) == (0.0, 0.0)
    # A stage whose samples were all quarantined before any work.
    assert throughput(Work(), seconds=0.0, quarantined=3).samples_per_second == 0.0


def test_a_batch_is_measured_from_its_preparation_to_its_end(demo_prepared, monkeypatch):
    clock, exported = iter((100.0, 103.0, 110.0, 110.0, 110.0, 110.0)), {}
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(meter.time, "time", lambda: 50.0)

    def export(name: str, stage: str, amount: float) -> None:
        assert amount > 0  # Ray refuses to add nothing
        exported[name, stage] = amount

    batch = [*demo_prepared[:2], demo_prepared[0]]
    lengths = np.array([len(sample.inputs.input_ids) for sample in batch])
    with Meter("score", export).batch(batch, prepared_at=46.0, together=True) as done:
        pass
    shared = len(batch[0].inputs.input_ids)
    assert done == [Work(1, 3, lengths.sum() - shared, shared, 7.0, 3.0, 4.0)]
    assert done[0].seconds == 10.0
    assert shared > 0
    assert set(COUNTERS) == {name for name, _ in exported} | {"prepared_batches", "quarantined"}
    assert exported == {(field.name, "score"): getattr(done[0], field.name) for field in fields(Work)}
    with Meter("score").batch(batch, prepared_at=46.0, together=False) as done:
        pass
    assert (done[0].tokens, done[0].shared_tokens) == (lengths.sum(), 0)
