import pytest

from tests.pipeline.small import failing, job, run, write_data


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Data, and a finished run over them."""
    folder = tmp_path_factory.mktemp("resume")
    data = write_data(folder / "data")
    record, rows = run(job(folder / "run", data))
    assert record.status == "complete"
    assert rows == (0, 0, 40)
    assert failing(folder / "run") == {}
    return folder
