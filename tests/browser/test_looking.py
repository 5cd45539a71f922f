"""Filter, sort, turn pages, find and open samples, in a real browser."""

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def page(looked_at, open_page) -> Page:
    return open_page(looked_at.address)


def shows(page: Page, ranks: list[int]) -> None:
    """The gallery shows these, in this order."""
    expect(page.locator("article .open .grey")).to_have_text([f"#{rank}" for rank in ranks])


def answer(page: Page):
    return page.get_by_role("region", name="What is kept")


def test_it_opens_on_the_best_by_the_runs_own_metric(page, rows):
    expect(page).to_have_title("200 samples · curate")
    shows(page, [row["rank"] for row in rows[:24]])
    first = page.get_by_role("article", name="Sample 1", exact=True)
    expect(first).to_contain_text(f"cosine {rows[0]['cosine']:.4g}")
    expect(first).to_contain_text("kept by the rule")
    expect(first.get_by_role("img", name="Image of sample 1")).to_have_js_property("complete", True)
    assert first.get_by_role("img").evaluate("image => image.naturalWidth") > 0
    expect(answer(page)).to_contain_text("40 of 200 kept (20.0%)")


def test_labels_are_filtered_and_counted(page, rows):
    page.get_by_text("Labels", exact=True).click()
    page.get_by_role("checkbox", name="blank image").check()
    blank = [row["rank"] for row in rows if row["quality"] == "blank image"]
    shows(page, blank[:24])
    kept = sum(rank <= 40 for rank in blank)
    expect(answer(page)).to_contain_text(f"Of {len(blank)} shown, {kept} are kept")
    expect(page).to_have_url(re.compile(r"label=blank\+image"))
    page.get_by_role("checkbox", name="noise image").check()
    both = [row["rank"] for row in rows if row["quality"] in ("blank image", "noise image")]
    shows(page, both[:24])
    line = answer(page).get_by_role("row", name=re.compile("^noise image"))
    expect(line.get_by_role("cell").first).to_have_text(str(len(both) - len(blank)))


def test_ranges_are_filtered(page, rows):
    page.get_by_text("Ranges", exact=True).click()
    page.get_by_label("l0 from").fill("13")
    page.get_by_label("n_text_tokens to").fill("30")
    page.get_by_label("n_text_tokens to").press("Enter")
    inside = [row["rank"] for row in rows if row["l0"] >= 13 and row["n_text_tokens"] <= 30]
    shows(page, inside[:24])
    expect(answer(page)).to_contain_text(f"Of {len(inside)} shown")
    expect(page.get_by_label("l0 from")).to_have_value("13.0")


def test_sides_of_the_cut_are_filtered(page, rows):
    page.get_by_label("rows").select_option("dropped")
    shows(page, list(range(41, 65)))
    page.get_by_label("rows").select_option("kept")
    shows(page, list(range(1, 25)))
    expect(page.get_by_role("navigation", name="Pages of samples")).to_contain_text("1 to 24 of 40")


def test_nothing_is_a_line(page):
    page.get_by_text("Ranges", exact=True).click()
    page.get_by_label("cosine from").fill("1e9")
    page.get_by_label("cosine from").press("Tab")
    expect(page.get_by_text("No sample is like that.")).to_be_visible()
    expect(answer(page)).to_contain_text("Of 0 shown, 0 are kept")


def test_a_tables_head_sorts_and_keeps_the_focus(page, rows):
    page.get_by_label("table").check()
    ranks = page.locator("td a.open")
    expect(ranks).to_have_text([str(rank) for rank in range(1, 51)])
    head = page.get_by_role("columnheader", name="l0")
    head.get_by_role("button").press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    best = sorted(rows, key=lambda row: (-row["l0"], row["sample_id"]))
    expect(ranks).to_have_text([str(row["rank"]) for row in best[:50]])
    expect(head.get_by_role("button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    worst = sorted(rows, key=lambda row: (row["l0"], row["sample_id"]))
    expect(ranks).to_have_text([str(row["rank"]) for row in worst[:50]])
    expect(page).to_have_url(re.compile("sort=l0&ascending=True&view=table"))
    expect(page.get_by_label("in order of")).to_have_value("l0")


def test_pages_are_addresses_and_the_back_button_turns_back(page, rows):
    pager = page.get_by_role("navigation", name="Pages of samples")
    pager.get_by_role("link", name="Next").click()
    shows(page, list(range(25, 49)))
    expect(page).to_have_url(re.compile("page=2"))
    expect(page.locator("article").first).to_be_in_viewport()
    pager.get_by_role("link", name="Last").click()
    shows(page, list(range(193, 201)))
    page.reload()
    shows(page, list(range(193, 201)))
    page.go_back()
    shows(page, list(range(25, 49)))
    page.wait_for_load_state()
    page.go_back()
    shows(page, list(range(1, 25)))
    page.wait_for_load_state()
    page.go_forward()
    shows(page, list(range(25, 49)))


def test_pages_of_what_is_filtered(page, rows):
    page.get_by_text("Labels", exact=True).click()
    page.get_by_role("checkbox", name="clean").check()
    clean = [row["rank"] for row in rows if row["quality"] == "clean"]
    shows(page, clean[:24])
    for start in (24, 48):
        page.get_by_role("link", name="Next").click()
        shows(page, clean[start : start + 24])
    assert page.url.count("label=clean") == 1
    page.get_by_role("link", name="Previous").click()
    shows(page, clean[24:48])


def test_after_back_the_form_says_what_is_shown(page):
    page.get_by_label("rows").select_option("kept")
    expect(page).to_have_url(re.compile("side=kept"))
    page.get_by_label("Share kept, as a number").fill("0.05")
    page.get_by_label("Share kept, as a number").press("Tab")
    expect(page).to_have_url(re.compile("ratio=0.05"))
    shows(page, list(range(1, 11)))
    page.go_back()
    shows(page, list(range(1, 25)))
    expect(page.get_by_label("Share kept, as a number")).to_have_value("0.2")
    expect(page.get_by_label("rows")).to_have_value("kept")
    page.go_back()
    expect(page.get_by_label("rows")).to_have_value("all")
    expect(answer(page)).to_contain_text("40 of 200 kept")


def test_back_is_heard_while_the_page_before_is_loaded(page):
    page.get_by_label("rows").select_option("kept")
    expect(page).to_have_url(re.compile("side=kept"))
    page.get_by_label("lowest first").check()
    expect(page).to_have_url(re.compile("ascending"))
    scripts = []
    page.route("**/viewer.js", lambda route: scripts.append(route), times=1)
    with page.expect_request("**/viewer.js"):
        page.evaluate("history.back()")
    page.evaluate("history.back()")
    expect(page).not_to_have_url(re.compile("side=kept"))
    scripts.pop().continue_()
    expect(page.get_by_label("rows")).to_have_value("all")
    shows(page, list(range(1, 25)))


def test_the_focus_stays_in_the_pager_to_the_last_page(page):
    page.get_by_label("rows").select_option("kept")
    pager = page.get_by_role("navigation", name="Pages of samples")
    expect(pager).to_contain_text("1 to 24 of 40")
    pager.get_by_role("link", name="Next").press("Enter")
    expect(pager).to_contain_text("25 to 40 of 40")
    expect(page.locator("#list :focus")).to_have_count(1)


def test_samples_are_found_by_rank_and_by_id(page, rows):
    search = page.get_by_label("Rank, or the beginning of an id")
    search.fill("#17")
    search.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(rows[16]["sample_id"][:12])
    search.fill(rows[99]["sample_id"][:10])
    page.get_by_role("button", name="Go").click()
    expect(page).to_have_url(re.compile("/samples/100$"))


def test_what_is_not_found_is_said(page, log):
    search = page.get_by_label("Rank, or the beginning of an id")
    search.fill("nobody")
    search.press("Enter")
    expect(page.get_by_text("no sample is called nobody: give a rank, or at least 4 digits of an id")).to_be_visible()
    log.forgive("404")
    page.get_by_role("link", name="All samples").click()
    shows(page, list(range(1, 25)))


def test_a_sample_opens_and_its_neighbours_are_those_of_its_page(page, rows):
    page.get_by_text("Labels", exact=True).click()
    page.get_by_role("checkbox", name="swapped image").check()
    swapped = [row for row in rows if row["quality"] == "swapped image"]
    shows(page, [row["rank"] for row in swapped])
    page.locator("article a.open").nth(1).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(swapped[1]["sample_id"][:12])
    for metric in ("cosine", "cooccurrence", "l0", "random"):
        line = page.get_by_role("row", name=re.compile(f"^{metric} "))
        place = sum(row[metric] >= swapped[1][metric] for row in rows)
        expect(line.get_by_role("cell").first).to_have_text(f"{swapped[1][metric]:.4g}")
        assert int(line.get_by_role("cell").nth(1).inner_text().split()[0]) <= place
    for at, feature in enumerate(swapped[1]["top_features"]):
        cells = page.get_by_role("table").nth(1).get_by_role("row").nth(at + 1).get_by_role("cell")
        expect(cells).to_have_text([str(feature["feature"]), f"{feature['contribution']:+.4f}"])
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(swapped[2]["sample_id"][:12])
    page.wait_for_load_state()  # keys work once the page is all there
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", level=1)).to_contain_text(swapped[1]["sample_id"][:12])
    page.get_by_role("link", name="Previous").click()
    expect(page.get_by_text(f"1 of {len(swapped)}")).to_be_visible()
    expect(page.get_by_role("link", name="Previous")).to_have_count(0)
    page.get_by_role("link", name="All samples").click()
    shows(page, [row["rank"] for row in swapped])


def test_without_javascript_the_form_works_by_its_button(looked_at, open_page):
    page = open_page(looked_at.address, java_script_enabled=False)
    page.get_by_label("rows").select_option("dropped")
    page.get_by_label("Share kept, as a number").fill("0.5")
    page.get_by_role("button", name="Show", exact=True).click()
    shows(page, list(range(101, 125)))
    expect(answer(page)).to_contain_text("100 of 200 kept")
    page.get_by_role("link", name="Next").click()
    shows(page, list(range(125, 149)))
    page.locator("article a.open").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Sample 125")
    expect(page.get_by_text("take JavaScript")).to_be_visible()
