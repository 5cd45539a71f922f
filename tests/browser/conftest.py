import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Log, chromium, origin
from tests.browser.hostile import Hostile, fill, hostile
from tests.browser.viewing import Viewer, viewer

SECONDS = 20
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def hostile_run(made_once, tmp_path_factory) -> Hostile:
    return hostile(made_once("hostile", fill), tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(SECONDS * 1000)
    with chromium() as running:
        yield running


@pytest.fixture
def log() -> Iterator[Log]:
    """Of all pages of a test, and checked after it."""
    found = Log()
    yield found
    found.check()


@pytest.fixture
def open_page(browser, log) -> Iterator[Open]:
    """Open an address in a browser of its own, which knows nothing of others."""
    contexts = []

    def opened(address: str, **options: object) -> Page:
        contexts.append(browser.new_context(**options))  # type: ignore[arg-type]
        contexts[-1].set_default_timeout(SECONDS * 1000)
        log.home.add(origin(address))
        log.of(contexts[-1])
        page = contexts[-1].new_page()
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def rows(scored_run) -> list[dict]:
    """The manifest of the run, best first."""
    return pq.read_table(scored_run / "manifest.parquet").to_pylist()


@pytest.fixture(scope="session")
def looked_at(scored_run) -> Iterator[Viewer]:
    """A viewer of the run, for tests that only look."""
    with viewer(scored_run, "--explain") as server:
        yield server


@pytest.fixture(scope="module")
def own_run(scored_run, tmp_path_factory) -> Path:
    """A copy of the run, for a module to write into."""
    return Path(shutil.copytree(scored_run, tmp_path_factory.mktemp("own") / "run"))
