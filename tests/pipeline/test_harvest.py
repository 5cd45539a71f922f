"""Hidden states from actors are those that one process makes, in the same order."""

import itertools
import os
import signal

import psutil
import pytest
import torch

from curate.datasets import DatasetSpec
from curate.harvest.job import SAETrainJob
from curate.harvest.plan import plan
from curate.harvest.train import local_chunks
from curate.models import ModelSpec
from curate.pipeline.harvest import chunks_of


@pytest.mark.slow
@pytest.mark.parametrize("place", [(0, 0), (3, 1)])
def test_actors_make_what_one_process_makes_even_where_one_dies(tmp_path, place):
    job = SAETrainJob(
        output=str(tmp_path),
        model=ModelSpec(name="demo"),
        dataset=DatasetSpec(limit=100),
        hook_layer=2,
        batch_size=1000,
        harvesters=2,
    )
    the_plan = plan(job)
    torch.set_num_threads(1)  # as in an actor
    expected = list(itertools.islice(local_chunks(the_plan)(place), 30))
    with chunks_of(the_plan) as chunks_from:
        found = []
        for chunk in itertools.islice(chunks_from(place), 30):
            found.append(chunk)
            if len(found) == 10:
                actors = [each for each in psutil.Process().children(recursive=True) if "Harvester" in each.name()]
                assert len(actors) == 2
                os.kill(actors[0].pid, signal.SIGKILL)
    torch.set_num_threads(2)
    assert len(found) == len(expected) == 30
    for one, other in zip(found, expected, strict=True):
        assert (one.place, one.last) == (other.place, other.last)
        assert torch.equal(one.is_image, other.is_image)
        torch.testing.assert_close(one.hidden, other.hidden, atol=1e-5, rtol=1e-5)
