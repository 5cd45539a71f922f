"""Who is blamed for dead workers: the sample in hand each time, and nobody for a death by chance."""

from types import SimpleNamespace

import pytest

from curate import demo
from curate.datasets import DatasetSpec
from curate.manifest.rows import QuarantineRow
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.watch import SuspectList
from curate.pipeline.workers import PrepareWorker, ScoreActor
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared


class Died(BaseException):
    """Stands for the end of a process."""


class Replacement:
    """A `Watch` as a replaced worker has it, without Ray."""

    def __init__(self, suspects: SuspectList) -> None:
        self.take_up, self.hold, self.put_down = suspects.take_up, suspects.hold, suspects.put_down


@pytest.fixture
def the_plan(tmp_path):
    parameters = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("l0",))
    spec = DatasetSpec(limit=12)
    return plan(ScoreJob(output=tmp_path / "run", dataset=spec, model=ModelSpec(name="demo"), parameters=parameters))


def test_a_sample_in_hand_at_two_deaths_is_left_out_and_named(the_plan, demo_builder):
    suspects = SuspectList()

    class Deadly:
        def build(self, image, question, response):
            self.built += 1
            if self.built == 5 and self.first_row_of_range == 0:
                raise Died
            return demo_builder.build(image, question, response)

    def attempt() -> list[Prepared | QuarantineRow]:
        worker = PrepareWorker(the_plan, the_plan.dataset, "score")
        worker.watch = Replacement(suspects)  # type: ignore[assignment]
        deadly = Deadly()
        deadly.built, deadly.first_row_of_range = 0, attempts  # type: ignore[attr-defined]
        return list(worker._samples(deadly, 0, 12))

    attempts = 0
    for _ in range(2):
        with pytest.raises(Died):
            attempt()
    attempts = 1
    rows = attempt()
    lost = [row for row in rows if isinstance(row, QuarantineRow)]
    assert [(row.source_row, row.error, row.stage) for row in lost] == [(4, "WorkerLost", "decode")]
    assert len(rows) == 12


def test_a_worker_that_dies_while_it_waits_blames_nobody(the_plan, demo_builder):
    suspects = SuspectList()
    for _ in range(5):
        worker = PrepareWorker(the_plan, the_plan.dataset, "score")
        worker.watch = Replacement(suspects)  # type: ignore[assignment]
        samples = worker._samples(demo_builder, 0, 12)
        assert all(isinstance(next(samples), Prepared) for _ in range(3))
        samples.close()
    assert suspects.take_up(("prepare", 0))[1] == []


def test_a_batch_that_kills_is_scored_one_by_one_until_the_culprit_is_known(the_plan, demo_prepared):
    suspects, batch, sizes = SuspectList(), demo_prepared[:4], []

    def score(part):
        sizes.append(len(part))
        if batch[2] in part:
            raise Died
        return [SimpleNamespace(source_row=sample.source_row) for sample in part]

    actor = ScoreActor(the_plan, None)
    actor.watch = Replacement(suspects)  # type: ignore[assignment]
    for _ in range(4):
        with pytest.raises(Died):
            actor._rows(SimpleNamespace(score=score), batch)  # type: ignore[arg-type]
    assert sizes == [4, 4, 1, 1, 1, 1, 1, 1]
    rows = actor._rows(SimpleNamespace(score=score), batch)  # type: ignore[arg-type]
    assert [row.source_row for row in rows] == [sample.source_row for sample in batch]
    lost = [row for row in rows if isinstance(row, QuarantineRow)]
    assert [(row.source_row, row.stage, row.sample_id) for row in lost] == [(2, "score", batch[2].sample_id)]


def test_deaths_over_other_batches_do_not_take_a_batch_apart():
    suspects = SuspectList()
    for _ in range(9):
        assert suspects.take_up("innocent") == (0, [])
        suspects.put_down("innocent")
        suspects.take_up("deadly")
    assert suspects.take_up("deadly") == (9, [])
