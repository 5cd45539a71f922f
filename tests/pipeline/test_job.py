import pytest

from curate.errors import ConfigurationError
from curate.models import ModelSpec
from curate.pipeline.plan import plan
from tests.models.small import write_text_model
from tests.pipeline.small import job


def test_a_text_model_scores_nothing(tmp_path):
    write_text_model(tmp_path, "mistral")
    the_job = job(tmp_path / "run", None, model=ModelSpec(name=str(tmp_path)), sae="demo")
    with pytest.raises(ConfigurationError, match=r"it is a text model \(mistral\); this takes one that sees images"):
        plan(the_job)
    assert not (tmp_path / "run").exists()
