import pytest

from curate.interpret.lens import open_run


@pytest.fixture(scope="session")
def run_lens(scored_run):
    return open_run(scored_run)
