"""The page: nothing that data hold can run or load anything, and every kind of run reads sensibly."""

import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from curate.datasets import Dataset
from curate.errors import DataError
from curate.manifest.record import MANIFEST, read_record
from curate.manifest.rows import QuarantineRow, scored_schema
from curate.manifest.verify import read_table
from curate.report.html import scores as scores_module
from curate.report.html.gather import Report, Request, gather
from curate.report.html.page import render, summary, templates
from tests.report.html.elements import Page, checked
from tests.report.html.runs import METRICS, Sample, add_weights, of_weights, png, write_rows, write_run

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<!-- --!><script>alert(1)</script>",
    '<svg onload="alert(1)"><use href="https://evil.example/x.svg#y"></svg>',
    '<link rel=stylesheet href="https://evil.example/x.css">',
    "<base href=https://evil.example>",
    "{{ 7*7 }}{% raw %}${7*7}",
    "url(https://evil.example/x.png)",
    "\u202egnp.live\u2066",
    "$\\frac{1}{0}$",
    "&lt;script&gt;&#60;script&#62;",
]


def reported(run: UPath, *others: UPath, **options) -> tuple[Report, Page, str]:
    """What a page is made of, and the page, which is held against all that a page must keep to."""
    found = gather(Request(run, others, **options), lambda said: None)
    markup = render(found, templates())
    markup.encode()
    return found, checked(markup), markup


def plain(count: int = 10) -> list[Sample]:
    return [Sample(f"what is in place {row}?", png((row * 20, 40, 200 - row * 9))) for row in range(count)]


def written_everywhere(folder: Path, payload: str) -> tuple[Page, str]:
    """The page of a run that has a text wherever it can have one, compared with itself."""
    folder.mkdir()
    samples = [
        Sample(f"{payload} {row}", png(), f"{payload} chosen", f"{payload} rejected", payload, (row, row % 3))
        for row in range(6)
    ]
    samples += [samples[0], Sample(f"{payload} no image", payload.encode(), payload, scores=(9, 9))]
    quarantined = [QuarantineRow(90, None, payload, payload, payload)]
    run = write_run(
        folder / payload.replace("/", "∕"),
        samples,
        quarantined,
        ["cosine", payload],
        folder / f"{payload.replace('/', '∕')}.parquet",
        notes=[payload],
        hashes=of_weights(),
        versions={payload: payload},
    )
    record = json.loads((run / "run.json").read_text())
    record["arguments"] |= {"model": {"name": payload}, "sae": payload}
    (run / "run.json").write_text(json.dumps(record))
    add_weights(run)
    labels = folder / "labels.json"
    labels.write_text(json.dumps({"3": payload, "1": payload, "0": payload}))
    _, page, markup = reported(run, run, labels=labels, gallery=3, ratio=Decimal("0.9"))
    return page, markup


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Page:
    return written_everywhere(tmp_path_factory.mktemp("harmless") / "folder", "harmless")[0]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_becomes_markup(payload, harmless, tmp_path):
    page, _ = written_everywhere(tmp_path / "hostile", payload)
    assert page.text.count(payload) >= 60
    # Element by element, and attribute by attribute, as if the text were harmless.
    made, expected = ([(tag, list(attributes)) for tag, attributes in each.elements] for each in (page, harmless))
    assert made == expected


def test_lone_surrogates_and_control_characters_in_data_leave_a_page_that_utf_8_holds(tmp_path):
    run = write_run(
        tmp_path / "run", [Sample("nul \0 and bell \a and escape \x1b[31m", png(), "\x7f\x85 ok"), *plain(3)]
    )
    labels = tmp_path / "labels.json"
    labels.write_text('{"3": "half \\ud800 a pair"}')
    _, page, markup = reported(run, labels=labels)
    assert "half ? a pair" in page.text
    assert not re.search(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", markup)
    assert "nul \N{REPLACEMENT CHARACTER} and bell" in page.text


def test_a_page_says_what_was_scored_with_what(tmp_path):
    run = write_run(tmp_path / "run", plain(), notes=["mind the gap"])
    _, page, _ = reported(run)
    record = read_record(run)
    for said in (
        record.hashes.dataset,
        record.hashes.model,
        record.hashes.sae,
        record.run_hash,
        "mind the gap",
        "float32",
    ):
        assert said in page.text


def test_a_page_says_how_well_the_sae_fits_also_where_nothing_is_to_be_measured(tmp_path):
    none, some = ({"tokens": 1, "explained_variance": share, "l0": 2.0} for share in (None, 0.5))
    explains = "explains 0.500 of the variance of text tokens (L0 2.0), in 1 sample"
    for name, samples, overflowed, fit, said in (
        ("none", 1, 0, {"text": none}, "explains nothing that can be measured (no token has variance), in 1 sample"),
        ("some", 1, 0, {"text": some, "image": none}, explains),
        ("over", 1, 9, {"text": some}, f"{explains}; overflows in 9 samples (its reconstruction is NaN or infinite)"),
        ("lost", 0, 0, {"text": none}, "was not measured, as no sample could be used"),
    ):
        sae = {"sha256": "s", "scale": 1.0, "units": "raw", "samples": samples, "overflowed": overflowed, "fit": fit}
        _, page, _ = reported(write_run(tmp_path / name, plain(), sae=sae))
        assert said in page.text


def test_the_same_run_gives_the_same_page(tmp_path):
    run = write_run(tmp_path / "run", plain())
    assert reported(run)[2] == reported(run)[2]


def test_figures_have_no_colour_of_their_own(tmp_path):
    run = write_run(tmp_path / "run", plain(), hashes=of_weights())
    add_weights(run)
    _, page, markup = reported(run, run)
    body = markup[markup.index("<body>") :]
    assert len(page.all("svg")) == 6  # two distributions, one metric over the other, weights, two of the comparison
    drawn = re.sub(r'(href|id|clip-path|aria-labelledby)="[^"]*"|src="[^"]*"', "", body)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", drawn)
    assert "var(--series-0)" in drawn
    assert "font-family" not in body


def test_sections_follow_what_a_run_has(tmp_path):
    labelled = [each._replace(label=f"kind {row % 2}") for row, each in enumerate(plain())]
    _, with_labels, _ = reported(write_run(tmp_path / "one", labelled))
    _, without, _ = reported(write_run(tmp_path / "two", plain()))
    assert with_labels.section("labels")
    assert not without.section("labels")
    assert not without.section("calibration")
    assert not without.section("sweep")
    assert not without.section("comparison-1")
    assert "no metric of this run needs feature weights" in without.text
    assert "was not computed" in without.text
    assert "--metric cosine,l0,loglik" in without.text


def test_likelihood_that_was_computed_is_drawn(tmp_path):
    samples = [each._replace(scores=(row, -row), text_tokens=20 + row % 3) for row, each in enumerate(plain())]
    _, page, _ = reported(write_run(tmp_path / "run", samples, metrics=["cosine", "loglik"]))
    assert "was not computed" not in page.text
    assert "how likely the model finds the chosen response: -1.00" in " ".join(page.text.split())


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("weighed", [False, True])
def test_runs_of_hardly_any_samples(tmp_path, count, weighed):
    run = write_run(tmp_path / "run", plain(count), hashes=of_weights() if weighed else read_hashes())
    if weighed:
        add_weights(run)
    found, page, _ = reported(run, run)
    assert found.keep == min(count, 1)
    assert ("No sample was scored" in page.text) == (count == 0)
    assert (
        len(page.all("article")) == (0, 3, 6)[count]
    )  # best, above, below and worst hold 1, 1, 0 and 1; of two 2, 1, 1 and 2
    assert summary(found, "x", 1)["cut"] == (None if count == 0 else count)


def read_hashes():
    hashes = of_weights()
    return hashes.model_copy(update={"weights": None})


def test_constant_scores_have_no_correlation(tmp_path):
    samples = [each._replace(scores=(1.0, float(row))) for row, each in enumerate(plain())]
    found, page, _ = reported(write_run(tmp_path / "run", samples))
    assert found.correlations["cosine", "l0"] is None
    assert "(constant)" in page.text
    assert "no rank correlation: one is the same in all rows" in page.text


def test_a_run_that_was_stopped_is_about_a_part_of_the_data(tmp_path):
    run = write_run(tmp_path / "run", plain(), status="stopped")
    _, page, _ = reported(run)
    assert "The run is stopped." in page.text


def test_data_that_are_gone_are_missed_where_they_would_be(tmp_path):
    run = write_run(tmp_path / "run", plain())
    (tmp_path / "run-data.parquet").unlink()
    found, page, _ = reported(run)
    assert found.unavailable
    assert page.all("img") == []
    assert len(page.all("article")) > 0
    assert page.text.count(found.unavailable) >= len(page.all("article"))
    assert "The best rows were not looked at" in page.text


def test_rows_that_changed_are_missed_where_they_would_be(tmp_path):
    samples = plain()
    run = write_run(tmp_path / "run", samples)
    write_run(
        tmp_path / "other", [samples[0]._replace(chosen="another"), *samples[1:]], data=tmp_path / "run-data.parquet"
    )
    _, page, _ = reported(run, gallery=1, ratio=Decimal("0.5"))
    assert page.text.count("no longer hold this sample") == 1
    assert len([each for each in page.all("img") if str(each["alt"]).startswith("Image of the sample of rank")]) == 3


def test_data_that_break_while_they_are_read_do_not_stop_the_report(tmp_path):
    run = write_run(tmp_path / "run", plain())
    data = tmp_path / "run-data.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    found, page, _ = reported(run)
    assert found.unavailable is not None
    assert "Texts and images are not shown" in page.text


@pytest.mark.parametrize("error", [OSError("the disk is gone"), pa.ArrowInvalid("a page is damaged")])
def test_a_disk_that_fails_while_data_are_read_does_not_stop_the_report(tmp_path, monkeypatch, error):
    def fail(self, positions):
        raise error

    monkeypatch.setattr(Dataset, "contents", fail)
    found, page, _ = reported(write_run(tmp_path / "run", plain()))
    assert found.unavailable == f"{tmp_path / 'run-data.parquet'} cannot be read: {error}"
    assert page.text.count(str(error)) > len(page.all("article"))


def test_an_image_that_cannot_be_decoded_is_missed_in_its_place(tmp_path):
    run = write_run(tmp_path / "run", [Sample("which?", b"no image at all"), *plain(4)])
    _, page, _ = reported(run, gallery=1)
    assert "The image cannot be decoded" in page.text
    assert "which?" in page.text


def test_long_texts_are_cut_and_say_so(tmp_path):
    run = write_run(tmp_path / "run", [Sample("q" * 300, png(), "a" * 5_000, "z" * 50_000)])
    _, page, markup = reported(run, gallery=1)
    assert "4,600 more characters" in page.text
    assert "43,600 more are not in this page" in page.text
    assert len(page.all("details")) == 6  # chosen and rejected in best, above and worst; the question is short
    assert markup.count("a" * 400) >= 3


def test_a_manifest_that_is_not_the_records_is_refused(tmp_path):
    run = write_run(tmp_path / "run", plain())
    other = write_run(tmp_path / "other", plain(4))
    (run / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    with pytest.raises(DataError, match="curate verify"):
        reported(run)


def test_by_another_metric_the_cut_and_the_galleries_are_that_metrics(tmp_path):
    samples = [each._replace(scores=(row, (row * 7) % 10)) for row, each in enumerate(plain())]
    found, page, _ = reported(write_run(tmp_path / "run", samples), by="l0", gallery=2, ratio=Decimal("0.3"))
    galleries = {each.name: [(card.rank, card.score) for card in each.cards] for each in found.galleries}
    assert galleries == {
        "best": [(1, 9.0), (2, 8.0)],
        "above": [(2, 8.0), (3, 7.0)],
        "below": [(4, 6.0), (5, 5.0)],
        "worst": [(10, 0.0), (9, 1.0)],
    }
    assert found.cut == 7.0
    assert "the manifest is ranked by cosine" in page.text


def large(rows: int) -> pa.Table:
    """Rows of random scores that nothing else is known of."""
    rng = np.random.default_rng(0)
    schema = scored_schema(METRICS)
    offsets = pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32))
    kind = schema.field("top_features").type.value_type
    features = pa.StructArray.from_arrays(
        [pa.array(rng.integers(0, 5_000, 2 * rows, dtype=np.int32)), pa.array(rng.random(2 * rows))], fields=list(kind)
    )
    columns = [
        pa.array(np.frombuffer(rng.bytes(16 * rows).hex().encode(), dtype="S32").astype(str)),
        pa.array(np.arange(rows)),
        pa.array(rng.normal(size=rows)),
        pa.array(rng.integers(0, 50, rows).astype(float)),
        pa.array(rng.integers(10, 400, rows, dtype=np.int32)),
        pa.array(rng.integers(500, 600, rows, dtype=np.int32)),
        pa.array(np.zeros(rows, bool)),
        pa.array(np.zeros(rows, np.int32)),
        pa.array(rng.choice(["good", "bad", "ugly"], rows)),
        pa.ListArray.from_arrays(offsets, features),
    ]
    return pa.Table.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def test_a_large_run_is_sampled_says_so_and_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(scores_module, "MOST_ROWS", 20_000)
    table = large(60_000)
    run = write_rows(tmp_path / "run", table)
    found, page, markup = reported(run)
    assert "Sampled: 20,000 of 60,000 rows." in page.text
    assert len(markup) < 2_000_000
    assert found.keep == 12_000
    # What is counted is exact, though figures are sampled.
    by_label = {each.label: (each.rows, each.kept) for each in found.scores.labels}
    manifest = read_table(run, MANIFEST)
    kept = np.arange(60_000) < 12_000
    quality = np.array(manifest["quality"].to_pylist())
    assert by_label == {
        name: (int((quality == name).sum()), int((kept & (quality == name)).sum())) for name in by_label
    }
    assert found.scores.spreads["cosine"].highest == manifest["score"][0].as_py()
    assert found.cut == manifest["score"][11_999].as_py()
    points = re.findall(r'<path d="((?:M [-\d.]+ [-\d.]+ L [-\d.]+ [-\d.]+ ?)+)"', markup.replace("\n", ""))
    assert sum(each.count("M") for each in points) < 3 * 2_000 + 500


def test_a_whole_report_of_a_real_run(scored_run, tmp_path):
    found, page, markup = reported(scored_run)
    assert len(markup) < 2_000_000
    assert len(page.all("article")) == 32
    assert len(page.all("img")) >= 32
    assert not found.scores.sampled
    live = found.features.live
    assert live is not None
    assert f"{len(live.cross_modal):,}" in page.text
    assert found.features.heaviest[0].weight == max(live.weight.tolist())
    assert Path(str(scored_run)).name in page.text
