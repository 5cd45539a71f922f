"""Why a score: what the page draws is what `curate explain` says."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.viewing import viewer
from tests.command import curate

pytestmark = pytest.mark.browser
EXPLAINED = 10


@pytest.mark.parametrize("metric", ["cosine", "l0"])
def test_an_explanation_says_what_curate_explain_says(looked_at, open_page, scored_run, metric):
    page = open_page(f"{looked_at.address}samples/9?by={metric}")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explanation li").first).to_be_visible(timeout=60_000)
    result = curate("explain", scored_run, "#9", "--metric", metric, "--json")
    assert result.exit_code == 0, result.output
    truth = json.loads(result.stdout)
    (truth,) = truth if isinstance(truth, list) else (truth,)
    shown = page.locator("#explanation h3").all_inner_texts()[1:]
    features = truth["features"][:EXPLAINED]
    assert [re.match(r"Feature (\d+) adds (\S+?)(?=,|$)", line).groups() for line in shown] == [
        (str(each["feature"]), f"{each['contribution']:+.4g}") for each in features
    ]
    expect(page.locator("#explanation")).to_contain_text(f"{metric} {truth['score']:.4g} is the sum over")
    for line in page.locator("#explanation li").all():
        on_image = "patches" in line.inner_text()
        images = line.get_by_role("img", name=re.compile("^Where in the image feature"))
        expect(images).to_have_count(int(on_image))
        if on_image:
            assert images.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        # Of the text, every token is there, and those that it fires on are marked.
        text = line.locator(".tokens")
        assert len(re.sub(r"\s", "", text.inner_text())) > 20
        fires = int(found[1]) if (found := re.search(r"on text (\d+)", line.inner_text())) else 0
        assert text.locator("mark").count() <= fires
        assert bool(text.locator("mark").count()) == bool(fires)


def test_by_key(looked_at, open_page):
    page = open_page(f"{looked_at.address}samples/1")
    page.wait_for_load_state()
    page.keyboard.press("e")
    expect(page.locator("#explanation li")).to_have_count(EXPLAINED, timeout=60_000)


def test_without_explain_the_page_says_how(scored_run, open_page, log, tmp_path):
    with viewer(scored_run, "--annotations", tmp_path / "said.jsonl") as server:
        page = open_page(f"{server.address}samples/1")
        expect(page.get_by_text(f"curate explain {scored_run} '#1'")).to_be_visible()
        assert page.get_by_role("button", name="Explain").count() == 0
        page.goto(f"{server.address}samples/1/explanation")
        expect(page.get_by_text("start curate view with --explain, which loads the model")).to_be_visible()
    log.forgive("404")
