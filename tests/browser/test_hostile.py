"""Data that would run scripts, if a page let them: nothing runs, nothing is fetched, and all is shown as it is.

Each page is opened twice: as it is, and without its policy, since the policy must not be what all depends on.
"""

import itertools
import re
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.harmless import harmless
from tests.browser.hostile import CHANGED, ELSEWHERE, FOLDER, PAYLOADS, REVIEWER, SECRET
from tests.browser.viewing import viewer

pytestmark = pytest.mark.browser
PATHS = ("find?sample=", "?by=", "?sort=", "?page=", "?least.rank=", "samples/", "jobs/job/", "nowhere/")


@pytest.fixture(scope="module")
def server(hostile_run):
    with viewer(hostile_run.run, "--explain", "--labels", hostile_run.labels, "--reviewer", REVIEWER) as running:
        yield running


@pytest.fixture(params=[False, True], ids=["as it is", "without its policy"])
def page(request, server, open_page) -> Page:
    return open_page(server.address, bypass_csp=request.param)


def test_all_of_it_was_scored_or_quarantined(hostile_run):
    assert hostile_run.scored == len(PAYLOADS) + len(CHANGED)
    assert hostile_run.quarantined == 4


@pytest.mark.parametrize("view", ["gallery", "table"])
def test_questions_responses_labels_and_the_runs_own_name(page, server, view):
    page.goto(f"{server.address}?view={view}")
    page.get_by_text("Labels", exact=True).click()
    harmless(page)
    text = page.locator("body").inner_text()
    for payload in PAYLOADS:
        assert text.count(payload) >= 3, payload
    assert FOLDER in text
    assert "49" not in page.locator(".top .where").inner_text()
    # And as htmx puts it in.
    page.get_by_role("checkbox", name="lowest first").check()
    expect(page).to_have_url(re.compile("ascending=True"))
    harmless(page)
    page.get_by_role("checkbox", name=PAYLOADS[0], exact=True).check()
    expect(page.get_by_role("region", name="What is kept")).to_contain_text(re.compile("Of [14] shown"))
    harmless(page)


def test_samples_their_features_and_why(page, server, hostile_run):
    for rank in range(1, hostile_run.scored + 1):
        page.goto(f"{server.address}samples/{rank}")
        harmless(page)
        called = page.get_by_role("table").nth(1).get_by_role("row").nth(1).get_by_role("cell").nth(2).inner_text()
        assert called in PAYLOADS
        if rank <= 3:
            page.get_by_role("button", name="Explain").click()
            expect(page.locator("#explanation li").first).to_be_visible(timeout=60_000)
            harmless(page)
            found = page.locator("#explanation li .grey .data").all_inner_texts()
            assert found
            assert set(found) <= set(PAYLOADS)


def test_notes_and_the_reviewers_name(page, server, hostile_run):
    (hostile_run.run / "annotations.jsonl").unlink(missing_ok=True)
    for rank, payload in enumerate(PAYLOADS, start=1):
        page.goto(f"{server.address}samples/{rank}")
        page.get_by_label("Note").fill(payload)
        page.get_by_role("button", name="Save note").click()
        expect(page.get_by_text(f"last: {REVIEWER}")).to_be_visible()
        page.get_by_role("button", name=f"Keep sample {rank}").click()
        expect(page.get_by_text(f"kept by {REVIEWER}")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Note")).to_have_value(payload)
        harmless(page)
    for view in ("gallery", "table"):
        page.goto(f"{server.address}?view={view}&said=noted")
        expect(page.get_by_text(f"kept by {REVIEWER}").first).to_be_visible()
        harmless(page)


def test_the_export(page):
    page.get_by_role("button", name="Export selection").click()
    expect(page.get_by_text("sha256 of selection.parquet")).to_be_visible()
    expect(page.locator("#exported")).to_contain_text(FOLDER)
    harmless(page)


def test_addresses(page, server, log):
    pairs = [*zip(PAYLOADS, itertools.cycle(PATHS), strict=False), *((PAYLOADS[1], path) for path in PATHS)]
    for payload, path in pairs:
        page.goto(f"{server.address}{path}{quote(payload, safe='')}")
        harmless(page)
        if path != "nowhere/":
            expect(page.get_by_role("heading", name="That did not work")).to_be_visible()
    page.goto(f"{server.address}?label={quote(PAYLOADS[1], safe='')}&side=kept")
    harmless(page)
    log.forgive("40[04]|422")


def test_rows_that_changed_since_are_not_shown(page, server, hostile_run, log):
    cards = page.get_by_role("article").filter(has_text="no image: the data have changed")
    expect(cards).to_have_count(len(CHANGED))
    ranks = [int(each.locator(".open .grey").inner_text().removeprefix("#")) for each in cards.all()]
    for rank in ranks:
        page.goto(f"{server.address}samples/{rank}")
        expect(page.get_by_text("the data no longer hold this sample")).to_be_visible()
        response = page.goto(f"{server.address}samples/{rank}/image")
        assert response
        assert response.status == 404
        assert SECRET not in response.text()
        page.goto(f"{server.address}samples/{rank}")
        page.get_by_role("button", name="Explain").click()
        expect(page.get_by_role("alert")).to_be_visible(timeout=60_000)
    log.forgive("40[04]|500")
    assert not any(ELSEWHERE in url for url in log.requests)
