"""What may become of a run, or of the server, while somebody looks; and runs that are not like others."""

import re
import shutil

import pytest
from playwright.sync_api import Page, expect

from curate.report.viewer.viewed import SCORED_AGAIN
from tests.browser.viewing import viewer
from tests.report.html.runs import Sample, png, write_run

pytestmark = pytest.mark.browser


def answer(page: Page):
    return page.get_by_role("region", name="What is kept")


def test_a_run_that_was_scored_again_is_refused(own_run, open_page, log):
    with viewer(own_run) as server:
        page = open_page(server.address)
        shutil.copy(own_run / "manifest.parquet", own_run / "again.parquet")
        (own_run / "again.parquet").replace(own_run / "manifest.parquet")
        line = SCORED_AGAIN.format(own_run)
        page.get_by_role("button", name="Drop sample 1", exact=True).click()
        expect(page.get_by_role("alert")).to_have_text(line)
        page.reload()
        expect(page.get_by_text(line)).to_be_visible()
        log.forgive("409")
    assert not (own_run / "annotations.jsonl").exists()


def test_a_page_that_is_older_than_its_server_decides_nothing(scored_run, tmp_path, open_page, log):
    """Its ranks are those of another run."""
    samples = [Sample(f"question {n}", png((n, 0, 0))) for n in range(10)]
    with viewer(write_run(tmp_path / "run", samples)) as server:
        page = open_page(server.address)
        page.get_by_role("article").first.evaluate(
            "card => card.querySelector('.said').setAttribute('hx-vals', JSON.stringify({of: 'f'.repeat(32)}))"
        )
        page.get_by_role("button", name="Drop sample 1", exact=True).click()
        expect(page.get_by_role("alert")).to_have_text("rank 1 is another sample by now: open the page anew")
        log.forgive("409")
    assert not (tmp_path / "run" / "annotations.jsonl").exists()


def test_a_server_that_was_ended_is_said_to_be(own_run, open_page, log):
    with viewer(own_run) as server:
        page = open_page(server.address)
        server.end()
        page.get_by_role("button", name="Drop sample 1", exact=True).click()
        expect(page.get_by_role("alert")).to_have_text("curate view does not answer: was it ended?")
        expect(page.get_by_role("article", name="Sample 1", exact=True)).to_contain_text("kept by the rule")
        log.forgive("ERR_CONNECTION_REFUSED|htmx:sendError")


def test_a_run_of_nothing(tmp_path, open_page):
    with viewer(write_run(tmp_path / "run", [])) as server:
        page = open_page(server.address)
        expect(answer(page)).to_contain_text("0 of 0 kept")
        expect(page.get_by_text("No sample is like that.")).to_be_visible()
        for choice in ("table", "score"):
            page.get_by_label(choice, exact=True).check()
        page.get_by_label("by", exact=True).select_option("l0")
        expect(page.get_by_role("img", name=re.compile("^Distribution of l0"))).to_be_visible()
        expect(page).to_have_url(re.compile("by=l0&keep_by=score&view=table"))
        expect(page.get_by_text("No sample is like that.")).to_be_visible()


def test_scores_that_are_all_the_same(tmp_path, open_page):
    samples = [Sample(f"question {n}", png((n, 0, 0)), scores=(2.5, 0.0)) for n in range(10)]
    with viewer(write_run(tmp_path / "run", samples)) as server:
        page = open_page(server.address)
        expect(page.locator(".kept strong")).to_have_text("2")
        page.get_by_label("score", exact=True).check()
        expect(page.locator(".kept strong")).to_have_text("10")
        slider = page.get_by_label("Lowest score kept", exact=True)
        expect(slider).to_have_value("2.5")
        slider.press("End")
        expect(page.locator(".kept strong")).to_have_text("0")
        slider.press("Home")
        expect(page.locator(".kept strong")).to_have_text("10")


def test_labels_without_end_and_words_without_spaces(tmp_path, open_page):
    word = "Donaudampfschifffahrtsgesellschaft" * 30
    samples = [Sample(word, png((n, 0, 0)), word, word, f"label {n} {word[:300]}") for n in range(70)]
    with viewer(write_run(tmp_path / "run", samples)) as server:
        for width in (1400, 400):  # of the table of labels: the head, 50 of them, and all others together
            page = open_page(server.address, viewport={"width": width, "height": 900})
            page.get_by_text("Labels", exact=True).click()
            page.get_by_text("Ranges", exact=True).click()
            assert page.get_by_role("region", name="Labels of the samples shown").get_by_role("row").count() == 52
            for path in ("", "?view=table", "samples/1"):
                page.goto(f"{server.address}{path}")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, path)
            page.goto(server.address)
            box = page.get_by_role("article").first.bounding_box()
            assert box
            assert box["height"] < 1000
