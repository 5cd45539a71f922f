"""The workers' classes in this process, without Ray: what they take, give, and pass on."""

import numpy as np
import pytest
import torch

from curate import demo
from curate.datasets import DatasetSpec
from curate.errors import RunStopped
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.plan import plan
from curate.pipeline.transport import batch_from_bytes, batch_to_bytes
from curate.pipeline.workers import BATCH, FAILURE, ROWS, PrepareWorker, ScoreActor, check, from_bytes
from curate.scoring.parameters import ScoringParameters
from tests.hostile import write_broken_table


def make_plan(tmp_path, dataset: DatasetSpec, **parameters):
    parameters = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("l0", "cooccurrence"), **parameters)
    return plan(ScoreJob(output=tmp_path / "run", dataset=dataset, model=ModelSpec(name="demo"), parameters=parameters))


def ranges(*bounds):
    return {"start": np.array([start for start, _ in bounds]), "stop": np.array([stop for _, stop in bounds])}


def test_a_batch_travels_unchanged(demo_prepared):
    for sent, received in zip(demo_prepared[:7], batch_from_bytes(batch_to_bytes(demo_prepared[:7])), strict=True):
        assert (sent.sample_id, sent.source_row, sent.quality) == (
            received.sample_id,
            received.source_row,
            received.quality,
        )
        assert torch.equal(sent.inputs.input_ids, received.inputs.input_ids)
        assert torch.equal(sent.inputs.is_image, received.inputs.is_image)
        assert sent.inputs.tensors.keys() == received.inputs.tensors.keys()
        for name, tensor in sent.inputs.tensors.items():
            assert torch.equal(tensor, received.inputs.tensors[name])


def test_each_row_of_each_range_comes_out_once_and_batches_never_cross_ranges(tmp_path):
    expected = write_broken_table(tmp_path / "data", rows=60, broken=27)
    the_plan = make_plan(tmp_path, DatasetSpec(name=str(tmp_path / "data")), batch_size=700)
    prepared = list(PrepareWorker(the_plan, the_plan.dataset, "score")(ranges((0, 25), (25, 60))))
    for block in prepared:
        if block["kind"] == [BATCH]:
            rows = [sample.source_row for sample in batch_from_bytes(block["payload"][0])]
            start = block["start"][0]
            assert all((row < 25) == (start == 0) for row in rows)
    assert sum(block["kind"] == [BATCH] for block in prepared) > 4
    actor = ScoreActor(the_plan, None)
    together = {
        key: [value for block in prepared for value in block[key]] for key in ("start", "kind", "payload", "made")
    }
    scored = actor(together)
    assert set(scored["kind"]) == {ROWS}
    rows = [row for payload in scored["payload"] for row in from_bytes(payload).to_pylist()]
    assert sorted(row["source_row"] for row in rows) == list(range(60))
    assert {row["source_row"] for row in rows if row.get("error")} == set(expected)


def test_what_cannot_be_loaded_travels_as_a_row(tmp_path):
    import dataclasses
    import shutil

    the_plan = make_plan(tmp_path, DatasetSpec(limit=3))
    broken = shutil.copytree(demo.MODEL, tmp_path / "model")
    (broken / "model.safetensors").write_bytes(b"")
    (broken / "tokenizer.json").write_text("{")
    bad = dataclasses.replace(the_plan, model=dataclasses.replace(the_plan.model, path=broken))
    for row in (
        ScoreActor(bad, None)({"start": [0], "kind": [BATCH], "payload": [b""]}),
        next(iter(PrepareWorker(bad, the_plan.dataset, "score")(ranges((0, 3))))),
    ):
        assert row["kind"] == [FAILURE]
        with pytest.raises(RunStopped, match=r"cannot be loaded|no whole processor"):
            check(row["kind"][0], row["payload"][0])
