"""The cut, moved by mouse, by keys and by number; what is kept follows."""

import re
import shlex
from decimal import Decimal

import pytest
from playwright.sync_api import Page, expect

from curate.manifest.rule import share_of

pytestmark = pytest.mark.browser


@pytest.fixture
def page(looked_at, open_page) -> Page:
    return open_page(looked_at.address)


def keeps(page: Page, count: int, by: str = "cosine") -> None:
    """The page says so in its line, in its picture's text, and colours the bars by it."""
    expect(page.locator(".kept strong")).to_have_text(str(count))
    said = re.compile(rf"^Distribution of {by} over the samples shown, from .* to .*: {count} kept, {200 - count} drop")
    expect(page.get_by_role("img", name=said)).to_be_visible()
    bars = page.locator("svg.histogram rect.kept")
    assert any(float(bar.get_attribute("height") or 0) > 0 for bar in bars.all()) == bool(count)


def command(page: Page) -> list[str]:
    return shlex.split(page.locator("#counted code.command").inner_text())


def test_by_mouse(page, scored_run):
    slider, number = page.get_by_label("Share kept", exact=True), page.get_by_label("Share kept, as a number")
    box = slider.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2)
    page.mouse.down()
    seen = []
    for share in (0.3, 0.45, 0.6):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=3)
        keeps(page, share_of(Decimal(number.input_value()), 200))  # before the button is let go
        seen.append(float(number.input_value()))
    page.mouse.up()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(0.6, abs=0.02)
    expect(page).to_have_url(re.compile(f"ratio={number.input_value()}"))
    assert command(page) == ["curate", "select", str(scored_run), "--ratio", number.input_value(), "--by", "cosine"]


def test_by_keyboard(page):
    slider = page.get_by_label("Share kept", exact=True)
    slider.focus()
    page.keyboard.press("ArrowRight")
    keeps(page, 41)
    expect(slider).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    keeps(page, 39)
    page.keyboard.press("End")
    keeps(page, 200)
    page.keyboard.press("Home")
    keeps(page, 1)
    expect(page).to_have_url(re.compile("ratio=0.005"))


def test_by_number(page):
    number = page.get_by_label("Share kept, as a number")
    number.fill("0.333")
    keeps(page, 67)
    expect(page.get_by_label("Share kept", exact=True)).to_have_value("0.335")


def test_what_is_no_share_is_said_and_the_page_goes_on(page, log):
    number = page.get_by_label("Share kept, as a number")
    number.fill("7")
    expect(page.get_by_role("alert")).to_contain_text("ratio: Input should be less than or equal to 1")
    log.forgive("400")
    number.fill("0.5")
    keeps(page, 100)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_by_score(page, rows):
    page.get_by_label("score", exact=True).check()
    slider, number = (
        page.get_by_label("Lowest score kept", exact=True),
        page.get_by_label("Lowest score kept, as a num"),
    )
    expect(number).to_have_value(str(rows[39]["cosine"]))  # the cut stays where it was
    keeps(page, 40)
    box = slider.bounding_box()
    assert box
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(number).not_to_have_value(str(rows[39]["cosine"]))
    lowest = float(number.input_value())
    keeps(page, sum(row["cosine"] >= lowest for row in rows))
    assert command(page)[3:5] == ["--min-score", str(lowest)]


def test_another_metric_has_other_scores(page, rows):
    page.get_by_label("score", exact=True).check()
    keeps(page, 40)
    page.get_by_label("by", exact=True).select_option("l0")
    best = sorted((row["l0"] for row in rows), reverse=True)
    keeps(page, sum(score >= best[39] for score in best), "l0")
    expect(page.get_by_label("Lowest score kept, as a number")).to_have_value(str(best[39]))
    slider = page.get_by_label("Lowest score kept", exact=True)
    assert float(slider.get_attribute("min") or 0) >= min(best)
    assert float(slider.get_attribute("max") or 0) <= max(best)
    assert float(slider.input_value()) == pytest.approx(best[39])
