"""What the page exports is what `curate select` writes by the command that the page shows, byte for byte."""

import json
import re
import shlex

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect

from curate.fingerprint import file_sha256
from tests.browser.viewing import viewer
from tests.command import curate

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(own_run):
    with viewer(own_run, "--reviewer", "Zoë") as running:
        yield running


@pytest.fixture
def page(server, open_page, own_run) -> Page:
    (own_run / "annotations.jsonl").unlink(missing_ok=True)
    return open_page(server.address)


def exported(page: Page, own_run, tmp_path) -> dict:
    """Export, and compare with what the command writes elsewhere; the record of it."""
    shown = page.locator("#counted code.command")
    expect(page.locator("#answer.htmx-request")).to_have_count(0)
    line = shown.inner_text()
    page.get_by_role("button", name="Export selection").click()
    told = page.get_by_role("status").filter(has_text="sha256 of selection.parquet")
    expect(told).to_be_visible()
    folder, sha256, command = told.locator("code").all_inner_texts()
    assert command == line
    verb, *arguments = shlex.split(command)
    assert verb == "curate"
    result = curate(*arguments, "--output", tmp_path / "cli")
    assert result.exit_code == 0, result.output
    ours, theirs = (own_run / "selections" / folder.rpartition("/")[2], tmp_path / "cli")
    assert str(ours) == folder
    assert (ours / "selection.parquet").read_bytes() == (theirs / "selection.parquet").read_bytes()
    assert (ours / "selection.json").read_bytes() == (theirs / "selection.json").read_bytes()
    assert file_sha256(ours / "selection.parquet") == sha256
    record = json.loads((ours / "selection.json").read_text())
    expect(told).to_contain_text(f"{record['selected']} samples are in")
    return {**record, "ids": pq.read_table(ours / "selection.parquet")["sample_id"].to_pylist()}


def test_by_share(page, own_run, tmp_path, rows):
    slider = page.get_by_label("Share kept", exact=True)
    slider.focus()
    page.keyboard.press("PageUp")
    expect(page.get_by_role("region", name="What is kept")).not_to_contain_text("40 of 200")
    share = page.get_by_label("Share kept, as a number").input_value()
    expect(page.locator("#counted code.command")).to_contain_text(f"--ratio {share}")
    kept = page.locator(".kept strong").inner_text()
    record = exported(page, own_run, tmp_path)
    assert record["ids"] == [row["sample_id"] for row in rows[: int(kept)]]
    assert (record["selected"], record["overrides"]) == (int(kept), [])


def test_by_score_of_another_metric(page, own_run, tmp_path, rows):
    page.get_by_label("score", exact=True).check()
    expect(page.get_by_label("Lowest score kept, as a number")).not_to_have_value("")
    page.get_by_label("by", exact=True).select_option("cooccurrence")
    score = page.get_by_label("Lowest score kept, as a number")
    expect(score).to_have_value(re.compile(r"^\d+\.0$"))  # that metric's
    score.fill("20")
    expect(page.locator("#counted code.command")).to_contain_text("--min-score 20.0 --by cooccurrence")
    best = sorted((row for row in rows if row["cooccurrence"] >= 20), key=lambda row: row["sample_id"])
    best.sort(key=lambda row: -row["cooccurrence"])
    assert exported(page, own_run, tmp_path)["ids"] == [row["sample_id"] for row in best]


def test_what_is_shown_decides_nothing(page, own_run, tmp_path, rows):
    page.get_by_text("Labels", exact=True).click()
    page.get_by_role("checkbox", name="blank image").check()
    page.get_by_label("rows").select_option("dropped")
    page.get_by_label("lowest first").check()
    expect(page.get_by_role("region", name="What is kept")).to_contain_text("shown, 0 are kept")
    expect(page).to_have_url(re.compile("ascending=True"))
    assert exported(page, own_run, tmp_path)["ids"] == [row["sample_id"] for row in rows[:40]]


def test_with_decisions(page, own_run, tmp_path, rows):
    for rank in (3, 1):
        page.get_by_role("button", name=f"Drop sample {rank}", exact=True).click()
    page.get_by_label("in order of").select_option("rank")
    page.get_by_role("button", name="Keep sample 200", exact=True).click()
    page.get_by_role("button", name="Pin sample 199", exact=True).click()  # which decides nothing
    expect(page.get_by_role("region", name="What is kept")).to_contain_text("39 of 200 kept")
    expect(page.locator("#counted code.command")).to_contain_text("--overrides")
    record = exported(page, own_run, tmp_path)
    wanted = [rows[1], *rows[3:40], rows[199]]
    assert record["ids"] == [row["sample_id"] for row in wanted]
    assert {(each["sample_id"], each["decision"], each["by"]) for each in record["overrides"]} == {
        (rows[0]["sample_id"], "drop", "Zoë"),
        (rows[2]["sample_id"], "drop", "Zoë"),
        (rows[199]["sample_id"], "keep", "Zoë"),
    }


def test_what_the_form_says_is_exported_before_it_is_answered_too(page, own_run, rows):
    page.route("**/answer?*", lambda route: None)  # never
    with page.expect_request("**/answer?*"):
        page.get_by_label("Share kept, as a number").fill("0.05")
    page.get_by_role("button", name="Export selection").click()
    told = page.get_by_role("status").filter(has_text="sha256 of selection.parquet")
    expect(told).to_contain_text("10 samples are in")
    expect(told).to_contain_text("--ratio 0.05")
    folder = told.locator("code").first.inner_text()
    ids = pq.read_table(f"{folder}/selection.parquet")["sample_id"].to_pylist()
    assert ids == [row["sample_id"] for row in rows[:10]]


def test_what_is_no_rule_is_not_exported(page, own_run, log):
    page.get_by_label("Share kept, as a number").fill("7")
    expect(page.get_by_role("alert")).to_contain_text("ratio: Input should be less than or equal to 1")
    before = sorted(own_run.rglob("*"))
    with page.expect_response("**/selection") as answered:
        page.get_by_role("button", name="Export selection").click()
    assert answered.value.status == 400
    expect(page.get_by_role("alert")).to_contain_text("ratio: Input should be less than or equal to 1")
    log.forgive("400")
    assert sorted(own_run.rglob("*")) == before


def test_what_keeps_nothing_is_refused(page, own_run, log):
    page.get_by_label("score", exact=True).check()
    expect(page.get_by_label("Lowest score kept, as a number")).not_to_have_value("")
    page.get_by_label("Lowest score kept, as a number").fill("1e6")
    expect(page.locator(".kept strong")).to_have_text("0")
    before = sorted(own_run.rglob("*"))
    page.get_by_role("button", name="Export selection").click()
    expect(page.get_by_role("alert")).to_contain_text("scores 1000000.0 or more by cosine")
    log.forgive("400")
    assert sorted(own_run.rglob("*")) == before
