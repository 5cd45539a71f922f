"""The report of a hostile run, opened from its file without a network; and what axe-core says of reports."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.access import clean
from tests.browser.harmless import harmless
from tests.browser.hostile import FOLDER, PAYLOADS
from tests.command import curate

pytestmark = pytest.mark.browser
SLOW = [("demo", "light", 1400), ("demo", "dark", 400), ("hostile", "dark", 400)]


@pytest.fixture(scope="module")
def report(hostile_run, tmp_path_factory) -> Path:
    """Of two runs, with labels of features: all that there is of texts."""
    folder = tmp_path_factory.mktemp("report")
    other = shutil.copytree(hostile_run.run, folder / FOLDER)
    page = folder / "report.html"
    result = curate("report", hostile_run.run, other, "--labels", hostile_run.labels, "--gallery", 20, "-o", page)
    assert result.exit_code == 0, result.output
    return page


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["as it is", "without its policy"])
def test_nothing_in_a_report_runs_or_is_fetched(report, open_page, bypass_csp, log):
    page = open_page(report.as_uri(), offline=True, bypass_csp=bypass_csp)
    for place in page.locator("details").all():
        place.evaluate("each => { each.open = true }")
    harmless(page)
    text = page.locator("body").inner_text()
    for payload in PAYLOADS:
        assert text.count(payload) >= 3, payload
    assert FOLDER in text
    assert page.locator("script").count() == 0
    assert set(log.requests) - {each for each in log.requests if each.startswith("data:")} == {report.as_uri()}
    for image in page.get_by_role("img").all():
        if image.evaluate("each => each.tagName") == "IMG":
            assert image.evaluate("each => each.decode().then(() => each.naturalWidth)") > 0


def test_it_prints(report, open_page, tmp_path):
    page = open_page(report.as_uri(), offline=True)
    printed = page.pdf(path=tmp_path / "report.pdf")
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", printed)) > 1


@pytest.mark.parametrize(
    ("of", "scheme", "width"),
    [
        *[("demo", "dark", 1400), ("demo", "light", 400), ("hostile", "light", 1400)],
        *(pytest.param(*other, marks=pytest.mark.slow) for other in SLOW),
    ],
)
def test_axe_finds_nothing(report, scored_run, tmp_path_factory, open_page, of, scheme, width):
    if of == "demo":
        report = tmp_path_factory.getbasetemp() / "demo-report.html"
        if not report.exists():
            assert curate("report", scored_run, "-o", report).exit_code == 0
    page = open_page(report.as_uri(), color_scheme=scheme, viewport={"width": width, "height": 900})
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    clean(page, f"report-{of}-{scheme}-{width}")
