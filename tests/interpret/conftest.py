import pytest
from upath import UPath

from curate.datasets import DatasetSpec
from curate.interpret.lens import open_run
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score

SAMPLES = 200


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory) -> UPath:
    """A run over 200 demo samples, with every metric that is a sum over features."""
    output = tmp_path_factory.mktemp("scored") / "run"
    job = ScoreJob(output=str(output), dataset=DatasetSpec(limit=SAMPLES))
    assert score(job, lambda step: None, lambda plan, rows: None).counts.scored == SAMPLES
    return UPath(output)


@pytest.fixture(scope="session")
def run_lens(scored_run):
    return open_run(scored_run)
