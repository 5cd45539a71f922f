"""Whatever a job file holds, it is a job or a ValidationError; a job is the same after a journey through JSON."""

import contextlib
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from curate.datasets import DatasetSpec
from curate.metrics import METRICS
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.resources import Resources
from curate.scoring.parameters import ScoringParameters
from tests.mutations import JSON, damaged


def part(model) -> st.SearchStrategy:
    """An object with some of a model's fields, and others."""
    return JSON | st.fixed_dictionaries({}, optional={**dict.fromkeys(model.model_fields, JSON), "other": JSON})


PARTS = {"dataset": part(DatasetSpec), "model": part(ModelSpec), "parameters": part(ScoringParameters)}
WORD = st.text(min_size=1, max_size=20)
COUNT = st.integers(1, 10_000)
SHARE = st.floats(0, 1)
NAMES = st.lists(st.sampled_from(list(METRICS)), min_size=1, unique=True)
BOTH = NAMES.filter(lambda names: any(METRICS[name].reads_activations for name in names))
PARAMETERS = st.one_of(
    st.builds(
        ScoringParameters,
        metrics=names.map(tuple),
        text=st.sampled_from(texts),
        hook_layer=st.integers(0, 100),
        batch_size=st.none() | COUNT,
        delta=st.floats(0, 1e300),
    )
    for names, texts in ((NAMES, ("prompt", "prompt+chosen", "prompt+rejected")), (BOTH, ("both",)))
)
DATASETS = st.builds(
    DatasetSpec, name=WORD, data_dir=st.none() | WORD.map(Path), columns=st.none() | st.dictionaries(WORD, WORD)
)
JOBS = st.builds(
    ScoreJob,
    output=WORD.map(Path),
    dataset=DATASETS,
    model=st.builds(ModelSpec, name=WORD),
    parameters=PARAMETERS,
    weights=st.none() | WORD.map(Path),
    sae=WORD,
    resources=st.builds(Resources, actors=COUNT, gpus_per_actor=st.none() | st.floats(0, 1, exclude_min=True)),
    max_error_rate=SHARE,
)
WHOLE = ScoreJob(output=Path("run"), parameters=ScoringParameters(hook_layer=1)).model_dump_json().encode()


@given(JSON | st.fixed_dictionaries({}, optional={**dict.fromkeys(ScoreJob.model_fields, JSON), **PARTS}))
def test_any_value_is_a_job_or_a_validation_error(value):
    for validate, given_value in ((ScoreJob.model_validate, value), (ScoreJob.model_validate_json, json.dumps(value))):
        with contextlib.suppress(ValidationError):
            assert isinstance(validate(given_value), ScoreJob)


@given(damaged(WHOLE))
def test_any_bytes_are_a_job_or_a_validation_error(data):
    try:
        job = ScoreJob.model_validate_json(data)
    except ValidationError:
        return
    assert ScoreJob.model_validate_json(job.model_dump_json()) == job


@given(JOBS)
def test_a_job_is_the_same_after_json(job):
    assert ScoreJob.model_validate_json(job.model_dump_json()) == job
    assert ScoreJob.model_validate(job.model_dump()) == job
