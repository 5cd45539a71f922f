"""Every page, light and dark, wide and narrow, as axe-core judges it: for people who see or move otherwise."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.access import clean
from tests.browser.viewing import viewer

pytestmark = pytest.mark.browser
SLOW = [("light", 400), ("dark", 1400)]


@pytest.fixture(scope="module")
def server(own_run):
    with viewer(own_run, "--explain", "--reviewer", "Zoë") as running:
        yield running


def states(page: Page, address: str) -> Iterator[str]:
    """Brings the page into each of its states, and names it."""
    page.goto(address)
    page.get_by_role("button", name="Keep sample 1", exact=True).click()
    page.get_by_role("button", name="Drop sample 2", exact=True).click()
    page.get_by_role("button", name="Pin sample 3", exact=True).click()
    expect(page.get_by_role("article", name="Sample 3", exact=True)).to_contain_text("pinned")
    yield "gallery"
    page.get_by_text("Labels", exact=True).click()
    page.get_by_text("Ranges", exact=True).click()
    page.get_by_label("score", exact=True).check()
    page.get_by_role("button", name="Export selection").click()
    expect(page.get_by_text("sha256 of selection.parquet")).to_be_visible()
    yield "all-open"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keys ?").click()
    yield "keys"
    page.goto(f"{address}?view=table&label=swapped+image")
    yield "table"
    page.goto(f"{address}samples/3")
    yield "sample"
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explanation li").first).to_be_visible(timeout=60_000)
    yield "explained"
    page.goto(f"{address}jobs")
    yield "jobs"
    page.goto(f"{address}samples/1000")
    yield "error"


@pytest.mark.parametrize(
    ("scheme", "width"),
    [("light", 1400), ("dark", 400), *(pytest.param(*other, marks=pytest.mark.slow) for other in SLOW)],
)
def test_axe_finds_nothing(server, open_page, own_run, log, scheme, width):
    (own_run / "annotations.jsonl").unlink(missing_ok=True)
    page = open_page(server.address, color_scheme=scheme, viewport={"width": width, "height": 900})
    seen = []
    for state in states(page, server.address):
        page.wait_for_load_state("networkidle")
        clean(page, f"{state}-{scheme}-{width}")
        seen.append(state)
    assert len(seen) == 8
    log.forgive("404")
