import pytest

from tests.pipeline.small import failing, job, run, write_data


@pytest.fixture(scope="session")
def whole(made_once):
    """Data, and a finished run over them."""

    def fill(folder):
        record, rows = run(job(folder / "run", write_data(folder / "data")))
        assert record.status == "complete"
        assert rows == (0, 0, 40)
        assert failing(folder / "run") == {}

    return made_once("whole", fill)
