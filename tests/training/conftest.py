from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from curate.datasets import DatasetSpec
from tests.training.small import job, run_job, scored_run, selection


@pytest.fixture(scope="session")
def half(tmp_path_factory) -> Path:
    """A selection of half of a run: 12 samples."""
    return selection(scored_run(tmp_path_factory.mktemp("tuned") / "run", DatasetSpec(limit=24)))


@pytest.fixture(scope="session")
def tuned(half, tmp_path_factory) -> Path:
    """An undisturbed DPO training on it."""
    output = tmp_path_factory.mktemp("tuned") / "dpo"
    run_job(job(half, output, "dpo"))
    return output


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Two threads on so small a model wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
