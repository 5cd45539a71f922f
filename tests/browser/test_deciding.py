"""Keep, drop, pin and note by button and by key: what is kept follows, and the file of decisions has it all."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.viewing import viewer

pytestmark = pytest.mark.browser
REVIEWER = "Zoë, 2nd floor"


@pytest.fixture(scope="module")
def server(own_run):
    with viewer(own_run, "--reviewer", REVIEWER) as running:
        yield running


@pytest.fixture
def page(server, open_page, own_run) -> Page:
    (own_run / "annotations.jsonl").unlink(missing_ok=True)
    page = open_page(server.address)
    keeps(page, "40 of 200 kept (20.0%); the")
    return page


def keeps(page: Page, line: str) -> None:
    expect(page.get_by_role("region", name="What is kept")).to_contain_text(line)


def card(page: Page, rank: int) -> Locator:
    return page.get_by_role("article", name=f"Sample {rank}", exact=True)


def said(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "annotations.jsonl").read_text().splitlines()]


def test_drop_and_undo(page, own_run, rows):
    first = card(page, 1)
    drop = first.get_by_role("button", name="Drop sample 1")
    drop.click()
    expect(first).to_contain_text(f"dropped by {REVIEWER}")
    expect(drop).to_have_attribute("aria-pressed", "true")
    expect(drop).to_be_focused()
    keeps(page, "39 of 200 kept (19.5%): 40 by the rule, then people's decisions")
    drop.click()
    expect(first).to_contain_text("kept by the rule")
    expect(drop).to_have_attribute("aria-pressed", "false")
    keeps(page, "40 of 200 kept (20.0%); the")
    lines = said(own_run)
    assert [(each["sample_id"], each["decision"], each["by"]) for each in lines] == [
        (rows[0]["sample_id"], "drop", REVIEWER),
        (rows[0]["sample_id"], None, REVIEWER),
    ]


def test_keep_what_the_rule_drops(page, own_run, rows):
    page.get_by_label("rows").select_option("dropped")
    worst = card(page, 41)
    worst.get_by_role("button", name="Keep sample 41").click()
    expect(worst).to_contain_text(f"kept by {REVIEWER}")
    keeps(page, "41 of 200 kept (20.5%): 40 by the rule, then people's decisions")
    worst.get_by_role("button", name="Drop sample 41").click()  # the other instead
    expect(worst.get_by_role("button", name="Keep sample 41")).to_have_attribute("aria-pressed", "false")
    keeps(page, "40 of 200 kept (20.0%); the")
    page.get_by_label("said of them").select_option("overridden")
    expect(page.locator("article")).to_have_count(1)
    assert [each["decision"] for each in said(own_run)] == ["keep", "drop"]


def test_pins_and_notes_stay_with_decisions(page, own_run, rows, server):
    card(page, 2).get_by_role("button", name="Pin sample 2").click()
    expect(card(page, 2)).to_contain_text("pinned")
    card(page, 2).get_by_role("link").click()
    page.get_by_label("Note").fill("two\nlines, and ünïcode ☂")
    page.get_by_role("button", name="Save note").click()
    expect(page.locator("#given")).to_have_value("two\nlines, and ünïcode ☂")
    page.get_by_role("button", name="Drop sample 2").click()
    expect(page.get_by_text(f"dropped by {REVIEWER} · pinned")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Note")).to_have_value("two\nlines, and ünïcode ☂")
    last = said(own_run)[-1]
    assert (last["sample_id"], last["note"], last["pinned"], last["decision"]) == (
        *(rows[1]["sample_id"], "two\nlines, and ünïcode ☂"),
        *(True, "drop"),
    )
    page.get_by_role("link", name="All samples").click()
    for choice in ("pinned", "noted"):
        page.get_by_label("said of them").select_option(choice)
        expect(page.locator("article")).to_have_count(1)
        expect(card(page, 2)).to_contain_text("ünïcode")


def test_what_was_typed_is_kept_with_a_decision(page, server, own_run):
    page.goto(f"{server.address}samples/8")
    page.get_by_label("Note").fill("not saved yet")
    page.get_by_role("button", name="Drop sample 8").click()
    expect(page.get_by_text(f"dropped by {REVIEWER}")).to_be_visible()
    expect(page.get_by_label("Note")).to_have_value("not saved yet")
    assert said(own_run)[-1]["note"] == "not saved yet"
    page.get_by_label("Note").fill("")
    page.get_by_role("button", name="Save note").click()
    expect(page.locator("#given")).to_have_value("")
    page.reload()
    expect(page.get_by_label("Note")).to_have_value("")
    assert (said(own_run)[-1]["note"], said(own_run)[-1]["decision"]) == ("", "drop")


def test_decisions_in_haste_are_all_taken(page, own_run, rows):
    page.evaluate("for (const rank of [1, 2, 3, 4, 5, 6]) document.getElementById(`drop-${rank}`).click()")
    keeps(page, "34 of 200 kept")
    for rank in range(1, 7):
        expect(card(page, rank)).to_contain_text(f"dropped by {REVIEWER}")
    assert sorted(each["sample_id"] for each in said(own_run)) == sorted(row["sample_id"] for row in rows[:6])


def test_a_note_is_as_long_as_may_be_and_no_longer(page, server, own_run):
    page.goto(f"{server.address}samples/3")
    note = page.get_by_label("Note")
    note.fill("x" * 2000)
    note.press("End")
    note.press("y")  # which the field does not take
    page.get_by_role("button", name="Save note").click()
    expect(page.get_by_text(f"last: {REVIEWER}")).to_be_visible()
    assert said(own_run)[-1]["note"] == "x" * 2000
    page.get_by_role("link", name="All samples").click()
    box = card(page, 3).bounding_box()
    assert box
    assert box["height"] < 900  # the rest of it is on the sample's page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_keys(page, own_run, rows):
    for _ in range(2):
        page.keyboard.press("l")
    expect(card(page, 2).get_by_role("link")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("d")
    expect(card(page, 1)).to_contain_text(f"dropped by {REVIEWER}")
    keeps(page, "39 of 200 kept")
    page.keyboard.press("d")
    expect(card(page, 1)).to_contain_text("kept by the rule")
    page.keyboard.press("k")
    expect(card(page, 1)).to_contain_text(f"kept by {REVIEWER}")
    page.keyboard.press("p")
    expect(card(page, 1)).to_contain_text("pinned")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(rows[0]["sample_id"][:12])
    page.wait_for_load_state()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", level=1)).to_contain_text(rows[1]["sample_id"][:12])
    page.wait_for_load_state()
    page.keyboard.press("d")
    expect(page.get_by_text(f"dropped by {REVIEWER}")).to_be_visible()
    page.keyboard.press("Escape")
    keeps(page, "39 of 200 kept")
    page.wait_for_load_state()
    page.keyboard.press("ArrowRight")
    expect(card(page, 25)).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(card(page, 1)).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Rank, or the beginning of an id")).to_be_focused()


def test_the_key_that_shows_the_keys(page):
    dialog = page.get_by_role("dialog", name="Keys")
    page.keyboard.press("?")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("d")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Keys ?").click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Keys ?")).to_be_focused()
    keeps(page, "40 of 200 kept (20.0%); the")


def test_keys_do_nothing_while_one_types_or_with_ctrl(page, server, own_run, rows):
    search = page.get_by_label("Rank, or the beginning of an id")
    search.focus()
    page.keyboard.type("kdpe?/")
    expect(search).to_have_value("kdpe?/")
    page.keyboard.press("ArrowLeft")
    page.goto(f"{server.address}samples/5")
    page.get_by_label("Note").focus()
    page.keyboard.type("keep? drop/pin")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Note")).to_have_value("keep? drop/pin")
    page.get_by_role("button", name="Pin sample 5").focus()
    for key in ("Control+d", "Alt+k", "Meta+p"):
        page.keyboard.press(key)
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_text("kept by the rule")).to_be_visible()
    assert not (own_run / "annotations.jsonl").exists()


def test_keys_decide_nothing_while_no_sample_has_the_focus(page, own_run):
    for key in ("k", "d", "p", "e", "Enter"):
        page.keyboard.press(key)
    page.keyboard.press("l")
    expect(card(page, 1).get_by_role("link")).to_be_focused()
    assert not (own_run / "annotations.jsonl").exists()


def test_all_is_reached_by_tab_alone(page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("by", exact=True)).to_be_focused()
    for _ in range(40):
        if card(page, 1).get_by_role("button", name="Keep").evaluate("each => each === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(card(page, 1)).to_contain_text(f"kept by {REVIEWER}")


def test_in_the_table_as_in_the_gallery(page, own_run):
    page.get_by_label("table").check()
    line = page.get_by_role("row").filter(has=page.get_by_role("link", name="7", exact=True))
    line.get_by_role("button", name="Drop sample 7").click()
    expect(line).to_contain_text(f"dropped by {REVIEWER}")
    keeps(page, "39 of 200 kept")
    page.keyboard.press("d")
    keeps(page, "40 of 200 kept (20.0%); the")
    page.keyboard.press("l")
    expect(page.get_by_role("link", name="8", exact=True)).to_be_focused()


def test_another_viewer_of_the_run_knows(page, own_run, open_page):
    with viewer(own_run, "--reviewer", "Ben") as second:
        theirs = open_page(second.address)
        card(theirs, 4).get_by_role("button", name="Drop sample 4").click()
        keeps(theirs, "39 of 200 kept")
        card(page, 6).get_by_role("button", name="Drop sample 6").click()
        keeps(page, "38 of 200 kept")
        page.reload()
        expect(card(page, 4)).to_contain_text("dropped by Ben")
        theirs.reload()
        expect(card(theirs, 6)).to_contain_text(f"dropped by {REVIEWER}")
    assert [each["by"] for each in said(own_run)] == ["Ben", REVIEWER]
