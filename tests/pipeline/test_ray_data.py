"""What is done with what comes out of Ray: twice, in parts, or not at all."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray
from ray.exceptions import ActorDiedError

from curate.errors import RunStopped
from curate.pipeline import ray_data
from curate.pipeline.ray_data import RayDataExecutor
from curate.pipeline.resources import Resources
from curate.pipeline.workers import NO_WORK, ROWS, to_bytes


def block(start: int, *rows: int) -> pa.Table:
    table = pa.table({"source_row": list(rows), "n_text_tokens": [2] * len(rows)})
    return pa.table({"start": [start], "kind": [ROWS], "payload": [to_bytes(table)], "work": [NO_WORK]})


def score(monkeypatch, *attempts: list):
    """Score the ranges 0 to 3 and 3 to 5; each attempt is what comes out, an error at its end included."""
    left, committed, arrived = iter(attempts), [], []

    def blocks(**_):
        for item in next(left):
            if isinstance(item, Exception):
                raise item
            yield item

    scored = SimpleNamespace(iter_batches=blocks)
    monkeypatch.setattr(ray_data, "suspect_list", lambda: None)
    monkeypatch.setattr(ray_data, "device_name", lambda plan: "cpu")
    monkeypatch.setattr(ray_data, "prepared", lambda *_: SimpleNamespace(map_batches=lambda *_, **__: scored))

    def commit(whole, rows):
        committed.append((whole, sorted(rows["source_row"].to_pylist())))
        return True

    resources = Resources()
    the_plan = SimpleNamespace(job=SimpleNamespace(resources=resources), cpus_per_actor=1, gpus_per_actor=0)
    executor = RayDataExecutor(the_plan, lambda step: None)  # type: ignore[arg-type]
    executor.score(the_plan, None, [(0, 3), (3, 5)], None, commit, arrived.append)  # type: ignore[arg-type]
    return committed, sum(step.rows for step in arrived), sum(step.tokens for step in arrived)


def test_what_comes_twice_counts_once_and_what_was_cut_off_is_streamed_and_counted_again(monkeypatch):
    committed, rows, tokens = score(
        monkeypatch,
        [block(0, 0, 1), block(3, 3), block(0, 1, 2), block(0, 0, 1), ActorDiedError()],
        [block(3, 4, 3)],
    )
    assert committed == [((0, 3), [0, 1, 2]), ((3, 5), [3, 4])]
    assert (rows, tokens) == (5, 10)


def test_attempts_that_bring_nothing_end(monkeypatch):
    with pytest.raises(RunStopped, match="2 ranges of rows came back from no worker"):
        score(monkeypatch, *[[block(0, 0, 1), ActorDiedError()]] * 3)


def test_an_error_of_the_code_is_not_met_three_times(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        score(monkeypatch, [ZeroDivisionError()], [block(0, 0, 1, 2), block(3, 3, 4)])


def test_no_thread_left_behind_starts_another_ray():
    assert not ray.is_initialized()
    with pytest.raises(ray.exceptions.RaySystemError, match="Ray has not been started"):
        ray.put(1)
