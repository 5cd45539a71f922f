"""The viewer's pages by what they answer; how they behave in a browser is tests/browser's."""

import html
import io
import re
import shlex
import shutil
from urllib.parse import parse_qsl

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from curate.datasets import DatasetSpec, open_dataset
from curate.errors import DataError
from curate.fingerprint import file_sha256
from curate.jobs.cluster import Submission
from curate.manifest.annotations import ANNOTATIONS, read_annotations
from curate.manifest.record import MANIFEST, read_record, write_record
from curate.manifest.selection import SELECTION
from curate.manifest.verify import verify_run
from curate.report.samples import RunSamples
from curate.report.viewer.app import build
from curate.report.viewer.contents import Contents
from tests.command import curate
from tests.report.viewer.conftest import viewed


def manifest(run) -> list[dict]:
    return pq.read_table(str(run / MANIFEST)).to_pylist()


def ranks(page: str) -> list[int]:
    return [int(rank) for rank in re.findall(r'href="/samples/(\d+)\?', page)]


def command_of(page: str) -> list[str]:
    (found,) = re.findall(r'<code class="data command">(.*?)</code>', page)
    return shlex.split(html.unescape(found))


def test_the_first_page_shows_the_best_samples_with_their_texts(client, run):
    page = client.get("/").text
    assert ranks(page) == list(range(1, 25))
    first = manifest(run)[0]
    ((_, sample),) = open_dataset(DatasetSpec(limit=200)).samples([first["source_row"]])
    for text in (sample.question, sample.chosen, sample.rejected):
        assert html.escape(text, quote=False) in html.unescape(page)
    assert "<strong>40</strong> of 200 kept" in re.sub(r"\s+", " ", page)


def test_pages_cut_the_order_without_gap_or_overlap(client):
    seen = []
    for number in range(1, 10):
        seen += ranks(client.get(f"/list?by=l0&page={number}").text)
    assert sorted(seen) == list(range(1, 201))
    assert ranks(client.get("/list?page=9000").text) == list(range(193, 201))


def test_the_address_of_a_page_is_pushed(client):
    pushed = client.get("/list?by=l0&view=table&page=3&least.cosine=1").headers["HX-Push-Url"]
    assert pushed == "/?by=l0&view=table&page=3&least.cosine=1.0"


@pytest.mark.parametrize("query", ["by=cosine&ratio=0.3", "by=l0&ratio=0.015", "by=cosine&keep_by=score&min_score=5.5"])
def test_what_is_exported_is_what_the_command_on_the_page_writes(client, run, tmp_path, query):
    rows = manifest(run)
    for rank, decision in ((1, "drop"), (200, "keep"), (3, "keep"), (150, "drop")):
        assert client.post(f"/samples/{rank}/annotation", data={"decision": decision}).status_code == 200
    command = command_of(client.get(f"/answer?{query}").text)
    page = client.post("/selection", data=dict(parse_qsl(query))).text
    (exported,) = (run / "selections").iterdir()
    assert str(exported) in page
    assert file_sha256(exported / SELECTION) in page
    result = curate(*command[1:], "--output", tmp_path / "by-command")
    assert result.exit_code == 0, result.output
    for name in (SELECTION, "selection.json"):
        assert (exported / name).read_bytes() == (tmp_path / "by-command" / name).read_bytes()
    ids = pq.read_table(exported / SELECTION)["sample_id"].to_pylist()
    assert rows[0]["sample_id"] not in ids
    assert rows[199]["sample_id"] in ids
    assert all(check.ok for check in verify_run(run))


def test_without_decisions_the_command_names_none(client, run):
    client.post("/samples/1/annotation", data={"pinned": "true"})
    assert command_of(client.get("/answer").text) == ["curate", "select", str(run), "--ratio", "0.2", "--by", "cosine"]


def test_what_is_said_is_kept_with_who_said_it_and_the_rest_stays(client, run):
    sample_id = manifest(run)[4]["sample_id"]
    client.post("/samples/5/annotation", data={"note": " odd\r\ncolours ", "noting": "true"})
    client.post("/samples/5/annotation", data={"decision": "drop"})
    page = client.post("/samples/5/annotation", data={"pinned": "true", "whole": "true"}).text
    said = read_annotations(run / ANNOTATIONS)[sample_id]
    assert (said.note, said.decision, said.pinned, said.by) == ("odd\ncolours", "drop", True, "ann")
    assert re.search(r'class="state dropped">dropped by <span class="data">ann</span> · pinned', page)
    client.post(
        "/samples/5/annotation", data={"decision": "none", "note": "", "noting": "true", "given": "odd\r\ncolours"}
    )
    said = read_annotations(run / ANNOTATIONS)[sample_id]
    assert (said.note, said.decision, said.pinned) == ("", None, True)


def test_a_note_that_was_not_touched_does_not_take_the_place_of_a_newer_one(client, run):
    sample_id = manifest(run)[1]["sample_id"]
    client.post("/samples/2/annotation", data={"note": "of ben", "noting": "true", "given": ""})
    client.post("/samples/2/annotation", data={"decision": "keep", "note": "", "noting": "true", "given": ""})
    said = read_annotations(run / ANNOTATIONS)[sample_id]
    assert (said.note, said.decision) == ("of ben", "keep")


def test_a_decision_counts_at_once_and_can_be_filtered_by(client):
    client.post("/samples/200/annotation", data={"decision": "keep"})
    client.post("/samples/7/annotation", data={"decision": "drop", "pinned": "true"})
    assert "<strong>40</strong> of 200 kept (20.0%): 40 by the rule" not in client.get("/answer").text
    assert ranks(client.get("/list?said=overridden").text) == [7, 200]
    assert ranks(client.get("/list?said=pinned").text) == [7]
    assert ranks(client.get("/list?said=overridden&side=kept").text) == [200]


def test_another_viewer_of_the_run_sees_it(client, run):
    other = TestClient(build(viewed(run), None), base_url="http://localhost")
    assert "kept by" not in other.get("/samples/200").text.replace("kept by the rule", "")
    client.post("/samples/200/annotation", data={"decision": "keep"})
    assert 'kept by <span class="data">ann</span>' in other.get("/samples/200").text


@pytest.mark.parametrize(
    "data", [{"decision": "maybe"}, {"pinned": "perhaps"}, {"note": "x" * 2001}, {"note": "x" * 5_000_000}]
)
def test_what_cannot_be_said_is_refused_and_not_kept(client, run, data):
    assert client.post("/samples/5/annotation", data=data).status_code in (400, 422)
    assert not (run / ANNOTATIONS).exists()


def test_samples_beside_one_are_those_of_the_list_it_is_in(client):
    query = "by=l0&least.cosine=5"
    listed = ranks(client.get(f"/list?{query}").text)
    page = client.get(f"/samples/{listed[1]}?{query}").text
    assert f'id="previous-page" href="/samples/{listed[0]}?' in page
    assert f'id="next-page" href="/samples/{listed[2]}?' in page
    assert "2 of " in page


def test_images_are_jpegs_of_the_sample_no_larger_than_asked(client, run):
    row = manifest(run)[0]
    ((_, sample),) = open_dataset(DatasetSpec(limit=200)).samples([row["source_row"]])
    answer = client.get("/samples/1/image")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == sample.image.size
    assert max(Image.open(io.BytesIO(client.get("/samples/1/image?longest=20").content)).size) == 20
    assert max(Image.open(io.BytesIO(client.get("/samples/1/image?longest=-5").content)).size) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/samples/0/image",
        "/samples/-1/image",
        "/samples/201/image",
        "/samples/99999999999999999999/image",
        "/samples/x/image",
        "/samples/..%2f..%2fetc%2fpasswd/image",
        "/samples/1/image/../../../../etc/passwd",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/samples/1/explanation",
        "/nothing",
        "/find?sample=zzz",
        "/?by=nothing",
        "/?filters=x",
        "/?whole=true",
        "/docs",
        "/openapi.json",
    ],
)
def test_what_is_not_there_is_refused_in_a_line(client, path):
    answer = client.get(path)
    assert 400 <= answer.status_code < 500
    assert "\n" not in answer.text.strip()
    assert "root:" not in answer.text
    assert "FastAPI" not in answer.text


def test_a_page_that_does_not_exist_is_a_page_for_people(client):
    answer = client.get("/nothing", headers={"HX-Request": ""})
    assert answer.status_code == 404
    assert "<h1>" in answer.text


def test_a_run_that_is_scored_again_is_no_longer_shown(client, run):
    shutil.copy(str(run / MANIFEST), str(run / "copy"))
    (run / "copy").rename(run / MANIFEST)
    answer = client.get("/")
    assert answer.status_code == 409
    assert "scored again" in answer.text


def test_a_run_that_is_being_scored_again_is_no_longer_shown(client, run):
    (run / MANIFEST).unlink()
    assert client.get("/").status_code == 409


def test_a_selection_is_of_the_run_that_is_shown(client, run):
    record = read_record(run)
    files = {**record.files, MANIFEST: record.files[MANIFEST].model_copy(update={"sha256": "0" * 64})}
    write_record(run, record.model_copy(update={"files": files}))
    assert client.post("/selection").status_code == 409
    assert not (run / "selections").exists()


def test_a_stopped_run_is_said_to_be_one(run):
    record = read_record(run).model_copy(update={"status": "stopped", "notes": ["<b>mind</b> this"]})
    page = TestClient(build(viewed(run, record=record), None), base_url="http://localhost").get("/").text
    assert "The run is stopped" in page
    assert "&lt;b&gt;mind&lt;/b&gt; this" in page


def test_what_jobs_say_is_no_markup(run, monkeypatch):
    """Ids, outputs, messages and logs come from a cluster, and logs hold what data hold."""
    payload = "<script>x</script><img src=x onerror=y>"

    class Cluster:
        def __init__(self, address):
            pass

        def list(self):
            return [Submission(payload, payload, payload, state, payload, 1.0, None) for state in ("RUNNING", "FAILED")]

        def status(self, name):
            return self.list()[1]

        def logs(self, name):
            return f"before\n{payload}\n"

    monkeypatch.setattr("curate.jobs.cluster.Cluster", Cluster)
    client = TestClient(build(viewed(run), None), base_url="http://localhost")
    for path in ("/jobs", "/jobs/list", "/jobs/job/one", "/jobs/job/one/state"):
        page = client.get(path).text
        assert "&lt;script&gt;" in page, path
        assert "<script>x" not in page, path
        assert "<img" not in page, path


def test_a_damaged_file_of_annotations_is_named(client, run):
    (run / ANNOTATIONS).write_text("no\n")
    answer = client.get("/")
    assert answer.status_code == 500
    assert f"{ANNOTATIONS}, line 1" in answer.text


def test_data_that_have_changed_are_not_shown_as_what_was_scored(run):
    other = open_dataset(DatasetSpec(limit=200, seed=1))
    client = TestClient(build(viewed(run, contents=Contents(RunSamples(other))), None), base_url="http://localhost")
    assert "the data have changed" in client.get("/").text
    assert "no longer hold this sample" in client.get("/samples/1").text
    assert client.get("/samples/1/image").status_code == 404


def test_data_that_cannot_be_opened_leave_the_rest_of_the_pages(run):
    contents = Contents(RunSamples(None, "the disk <b>is gone</b>"))
    client = TestClient(build(viewed(run, contents=contents), None), base_url="http://localhost")
    for path in ("/", "/samples/1", "/?view=table"):
        page = client.get(path).text
        assert "the disk &lt;b&gt;is gone&lt;/b&gt;" in page


def test_samples_are_read_once_while_they_are_looked_at(run):
    rows = {row["source_row"]: row["sample_id"] for row in manifest(run)[:24]}
    reads = []

    class Counting(RunSamples):
        def read(self, sample_ids):
            reads.append(len(sample_ids))
            return super().read(sample_ids)

    contents = Contents(Counting(open_dataset(DatasetSpec(limit=200))))
    assert contents.read(rows) == contents.read(rows)
    assert reads == [24]


def test_memory_of_samples_is_bounded(run, monkeypatch):
    monkeypatch.setattr("curate.report.viewer.contents._MOST_BYTES", 20_000)
    contents = Contents(RunSamples(open_dataset(DatasetSpec(limit=200))))
    rows = {row["source_row"]: row["sample_id"] for row in manifest(run)}
    found = contents.read(rows)
    assert set(found) == set(rows)
    assert sum(len(part) for content in contents._kept.values() for part in content) <= 20_000


def test_without_a_cluster_the_page_of_jobs_says_so(client, monkeypatch):
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    page = client.get("/jobs").text
    assert "no Ray dashboard answers there" in page
    assert client.get("/jobs/job/x").status_code == 400


def test_a_run_without_rows_has_a_page(run):
    empty = viewed(run)
    table = pq.read_table(str(run / MANIFEST)).slice(0, 0)
    pq.write_table(table, str(run / "empty.parquet"))
    from curate.report.viewer.table import Table

    nothing = Table(run / "empty.parquet", empty.record.metrics, 0)  # type: ignore[arg-type]
    client = TestClient(build(viewed(run, table=nothing), None), base_url="http://localhost")
    for query in ("", "?by=l0&keep_by=score", "?view=table&side=kept"):
        answer = client.get(f"/{query}")
        assert answer.status_code == 200, answer.text
        assert "No sample is like that" in answer.text


def test_data_that_cannot_be_read_for_a_while_come_back(run):
    class Failing(RunSamples):
        fails = True

        def read(self, sample_ids):
            if Failing.fails:
                raise DataError("demo cannot be read: the disk sleeps")
            return super().read(sample_ids)

    contents = Contents(Failing(open_dataset(DatasetSpec(limit=200))))
    client = TestClient(build(viewed(run, contents=contents), None), base_url="http://localhost")
    page = client.get("/")
    assert page.status_code == 200
    assert "the disk sleeps" in page.text
    Failing.fails = False
    page = client.get("/").text
    assert "the disk sleeps" not in page
    assert "the data have changed" not in page
