"""`curate show`: order, ranks and cut against brute force, and data that would like to drive the terminal."""

import json
import re
import shutil
import unicodedata
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from upath import UPath

from curate.cli.histogram import binned
from curate.cli.pictures import pictures
from curate.datasets import DatasetSpec, open_dataset
from curate.errors import DataError
from curate.manifest.find import find_row, find_rows
from curate.manifest.ledger import commit
from curate.manifest.listing import list_run
from curate.manifest.rank import write_manifest
from curate.manifest.record import MANIFEST, QUARANTINE, read_record
from curate.manifest.rows import QuarantineRow, ScoredRow, quarantine_table, scored_table
from curate.sample import content_id
from tests.cli.terminal import on_terminal
from tests.command import curate, refused
from tests.hostile import images
from tests.manifest.test_run_folder import METRICS, make_run, record, scored

ALL_METRICS = ["cosine", "cooccurrence", "l0", "random"]
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\go\x1b]8;;\x1b\\ \x9b31m \u202eeruces\u2066 [red]x[/red] [link=http://evil]y[/link]"
TAMED = "[red]x[/red] [link=http://evil]y[/link]"


def shown(*arguments: object) -> str:
    result = curate("show", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def manifest(scored_run):
    return pq.read_table(scored_run / MANIFEST).to_pylist()


def by_metric(manifest, metric):
    return sorted(manifest, key=lambda row: (-row[metric], row["sample_id"], row["source_row"]))


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_rows_ranks_and_scores_are_those_of_the_metric(scored_run, manifest, metric):
    rows = json.loads(shown(scored_run, "--by", metric, "--top", 7, "--bottom", 4, "--json"))
    ordered = list(enumerate(by_metric(manifest, metric), start=1))
    expected = [{**row, "rank": rank, "score": row[metric], "by": metric} for rank, row in ordered[:7] + ordered[-4:]]
    texts = ("question", "chosen", "rejected")
    assert [{name: row[name] for name in row if name not in texts} for row in rows] == expected
    samples = dict(open_dataset(DatasetSpec(limit=len(manifest))).samples(range(len(manifest))))
    for row in rows:
        assert [row[text] for text in texts] == [getattr(samples[row["source_row"]], text) for text in texts]


@pytest.mark.parametrize("ratio", ["0.001", "0.2", "0.5", "0.9975", "1"])
@pytest.mark.parametrize("metric", ["cosine", "cooccurrence"])
def test_a_cut_is_where_select_cuts(scored_run, manifest, tmp_path, metric, ratio):
    chosen = curate("select", scored_run, "--ratio", ratio, "--by", metric, "-o", tmp_path / "selected", "--json")
    keep = json.loads(chosen.stdout)["selected"]
    selected = pq.read_table(tmp_path / "selected" / "selection.parquet")["sample_id"].to_pylist()
    found = json.loads(shown(scored_run, "--ratio", ratio, "--by", metric, "--around", 3, "--json"))
    assert (found["kept"], found["scored"], found["by"], found["ratio"]) == (keep, len(manifest), metric, ratio)
    above = [row["sample_id"] for row in found["rows"] if row["kept"]]
    below = [row["sample_id"] for row in found["rows"] if not row["kept"]]
    rest = [row["sample_id"] for row in by_metric(manifest, metric)][keep:]
    assert (above, below) == (selected[-3:], rest[:3])
    assert found["cut"] == by_metric(manifest, metric)[keep - 1][metric]
    kept = Counter(row["quality"] for row in by_metric(manifest, metric)[:keep])
    samples = Counter(row["quality"] for row in manifest)
    assert {entry["label"]: (entry["kept"], entry["samples"]) for entry in found["labels"]} == {
        label: (kept[label], count) for label, count in samples.items()
    }


def test_the_terminal_says_where_the_cut_is_without_colour(scored_run, manifest, monkeypatch):
    monkeypatch.setattr("curate.cli.console.OUT._width", 100)
    text = shown(scored_run, "--ratio", "0.25", "--around", 2)
    lines = text.splitlines()
    score = f"{manifest[49]['cosine']:.4g}"
    assert "50 of 200 samples kept by cosine at ratio 0.25" in lines
    (mark,) = [line for line in lines if "cut at" in line]
    assert mark.strip() in (f"▲ cut at {score}", f"cut at {score} ▲")
    (axis,) = [line for line in lines if re.fullmatch("─+━+", line)]
    assert axis.index("━") == mark.index("▲")
    ranks = [
        int(cells[0]) for line in lines if re.match(r"\s*\d+\s+\S+\s+(not )?kept ", line) and (cells := line.split())
    ]
    assert ranks == [49, 50, 51, 52]
    assert [line.strip() for line in lines if "the cut" in line] == ["2 just above the cut", "2 just below the cut"]
    label = Counter(row["quality"] for row in manifest).most_common(1)[0]
    kept = sum(row["quality"] == label[0] for row in manifest[:50])
    assert re.search(rf"{label[0]}\s+{label[1]}\s+{kept}\s+{kept / label[1]:.0%}", text)


@pytest.mark.parametrize(
    ("options", "ranks"),
    [
        ((), [1, 2, 3, 4, 5, 196, 197, 198, 199, 200]),
        (("--top", 1), [1]),
        (("--bottom", 2), [199, 200]),
        (("--top", 150, "--bottom", 150), list(range(1, 201))),
        (("--top", 0), []),
        (("--ratio", "0.1", "--around", 0), []),
        (("--ratio", "0.1"), list(range(16, 26))),
        (("--ratio", "0.01", "--around", 2, "--top", 4, "--bottom", 1), [1, 2, 3, 4, 200]),
        (("--ratio", "1", "--around", 1, "--bottom", 3), [200]),
        (("--ratio", "0.5", "--around", 1, "--top", 1, "--bottom", 1), [1, 100, 101, 200]),
    ],
)
def test_each_row_is_shown_once_best_first(scored_run, options, ranks):
    found = json.loads(shown(scored_run, *options, "--json"))
    assert [row["rank"] for row in (found["rows"] if "--ratio" in options else found)] == ranks
    shown(scored_run, *options)


@given(
    scores=st.lists(st.floats(-1e6, 1e6), min_size=1) | st.lists(st.integers(-300, 300).map(float), min_size=1),
    columns=st.integers(1, 60),
)
@example(scores=[0.0, 0.75, 1.5], columns=2)  # a score on an edge
def test_the_histogram_holds_every_score_once(scores, columns):
    scores = np.array(sorted(scores, reverse=True))
    bins = binned(scores, columns)
    assert len(bins.counts) <= columns
    assert bins.counts.sum() == len(scores)
    places = [bins.place(score) for score in scores]
    assert (np.bincount(places, minlength=len(bins.counts)) == bins.counts).all()
    assert places == sorted(places, reverse=True)
    if (scores == np.round(scores)).all():
        assert (
            len({int(np.ceil(high) - np.ceil(low)) for low, high in zip(bins.edges, bins.edges[1:], strict=False)}) == 1
        )


def test_one_sample_with_all_its_scores_and_ranks(scored_run, manifest):
    best = by_metric(manifest, "l0")[0]
    text = shown(scored_run, "--by", "l0", "--sample", "#1")
    assert text == shown(scored_run, "--by", "l0", "--sample", best["sample_id"])
    for metric in ALL_METRICS:
        rank = 1 + [row["sample_id"] for row in by_metric(manifest, metric)].index(best["sample_id"])
        assert re.search(rf"{metric} +{best[metric]:.6g} +{rank}\b", text)
    for entry in best["top_features"]:
        assert re.search(rf"\b{entry['feature']} +\{entry['contribution']:+.4f}", text)
    assert text.splitlines()[-1] == f"why: curate explain {scored_run} {best['sample_id']}"
    assert f"{best['n_text_tokens']} text tokens, {best['n_image_tokens']} image tokens" in text
    (row,) = json.loads(shown(scored_run, "--by", "l0", "--sample", "#1", "--json"))
    assert (row["rank"], row["score"], row["by"]) == (1, best["l0"], "l0")
    assert row == json.loads(shown(scored_run, "--by", "l0", "--top", 1, "--json"))[0]
    for part in ("question", "chosen", "rejected"):
        assert " ".join(row[part].split()) in " ".join(text.split())


@pytest.mark.parametrize(
    "options",
    [
        ("--ratio", "0.3", "--by", "l0"),
        ("--top", 90, "--bottom", 3),
        ("--sample", "#77"),
        ("--sample", "#77", "--by", "l0"),
    ],
)
def test_a_manifest_read_in_pieces_shows_the_same(scored_run, monkeypatch, options):
    whole = [shown(scored_run, *options), shown(scored_run, *options, "--json")]
    monkeypatch.setattr("curate.manifest.verify.READ_ROWS", 17)
    assert [shown(scored_run, *options), shown(scored_run, *options, "--json")] == whole


def test_by_default_a_rank_is_the_manifests(scored_run, manifest):
    (row,) = json.loads(shown(scored_run, "--sample", "#17", "--json"))
    assert (row["sample_id"], row["rank"]) == (manifest[16]["sample_id"], 17)
    assert json.loads(shown(scored_run, "--sample", manifest[16]["sample_id"][:12], "--json")) == [row]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--by", "wisdom"), "--by wisdom: RUN has cosine, cooccurrence, l0, random"),
        (("--ratio", "half"), "--ratio: "),
        (("--ratio", "0"), "--ratio: "),
        (("--ratio", "1.01"), "--ratio: "),
        (("--ratio", "nan"), "--ratio: "),
        (("--around", 3), "--around goes with --ratio"),
        (("--sample", "#1", "--ratio", "0.2"), "--ratio does not go with --sample"),
        (("--sample", "#1", "--top", 3), "--top does not go with --sample"),
        (("--sample", ""), "name a sample"),
        (("--sample", "#0"), "has no sample #0"),
        (("--sample", "#201", "--by", "l0"), "has no sample #201"),
        (("--sample", "#x", "--by", "l0"), "#x is no rank"),
        (("--sample", "#1", "--by", "wisdom"), "--by wisdom"),
        (("--images", "--json"), "--images does not go with --json"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(scored_run, options, error):
    refused(error.replace("RUN", str(scored_run)), "show", scored_run, *options)


def test_copies_and_quarantined_samples_are_all_found(tmp_path):
    run = UPath(tmp_path / "run")
    (run / "shards").mkdir(parents=True)
    twin, lost, both = "a" * 32, "b" * 32, "c" * 32
    rows = [scored(0, 1.0, sample_id=twin), scored(1, 1.0, sample_id=twin), scored(2, 2.0, sample_id=both)]
    bad = [QuarantineRow(3, lost, "decode", "EmptyText", "no"), QuarantineRow(4, both, "score", "NonFinite", "NaN")]
    tables = [scored_table(rows, METRICS), quarantine_table(bad)]
    commit(run, 0, 5, pa.concat_tables(tables, promote_options="default"), None, "stamp")
    write_manifest(run, METRICS, (run / "shards").glob("*.parquet"))
    record(run)
    assert [row["source_row"] for row in find_rows(run, "a")] == [0, 1]
    assert [row["rank"] for row in json.loads(shown(run, "--sample", "a", "--by", "l0", "--json"))] == [1, 2]
    assert [row["source_row"] for row in find_rows(run, "b")] == [3]
    assert [row["source_row"] for row in find_rows(run, "c")] == [2, 4]
    assert find_row(run, "c")["source_row"] == 2
    with pytest.raises(DataError, match="give more of it"):
        find_row(UPath(make_run(tmp_path / "other")), "0000")
    with pytest.raises(DataError, match="could not be scored: EmptyText: no"):
        find_row(run, "b")
    text = shown(run, "--sample", "c")
    assert "could not be scored: NonFinite at stage score: NaN" in text
    assert f"curate explain {run} {both}" in text
    assert f"curate quarantine {run}" in text


def test_a_run_without_labels_or_without_rows_is_shown(tmp_path):
    run = make_run(tmp_path / "run")
    for rows in (10, 0):
        table = pq.read_table(run / MANIFEST).slice(0, rows)
        table = table.set_column(table.column_names.index("quality"), "quality", pa.nulls(rows, pa.string()))
        pq.write_table(table, run / MANIFEST)
        found = json.loads(shown(run, "--ratio", "0.3", "--json"))
        assert (found["kept"], found["labels"], found["scored"]) == (3 if rows else 0, [], rows)
        assert "kept by cosine" in shown(run, "--ratio", "0.3")
        assert "share" not in shown(run, "--ratio", "0.3")
        shown(run)


def test_scores_that_are_no_numbers_are_one_line(tmp_path):
    run = make_run(tmp_path / "run")
    table = pq.read_table(run / MANIFEST)
    for bad in (float("inf"), float("nan"), None):
        column = pa.array([bad, *[1.0] * 9], pa.float64())
        pq.write_table(table.set_column(table.column_names.index("l0"), "l0", column), run / MANIFEST)
        with pytest.raises(DataError, match="no numbers; see curate verify"):
            list_run(UPath(run), read_record(UPath(run)), "l0")
        refused("no numbers", "show", run, "--by", "l0")


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """A run over two samples whose every text is hostile, the image of the second damaged, and a quarantined one."""
    folder = tmp_path_factory.mktemp("hostile") / "[bold]data"
    folder.mkdir()
    rows = [(f"{n} {HOSTILE}", data, f"chosen {HOSTILE}", f"rejected {HOSTILE}\n" * 3) for n, data in enumerate(IMAGES)]
    names = ("question", "image", "chosen", "rejected")
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), folder / "data.parquet")
    ids = [content_id(*row) for row in rows]
    run = UPath(folder / "run")
    (run / "shards").mkdir(parents=True)
    best = [ScoredRow(ids[n], n, {"cosine": 2.0 - n, "l0": 1.0}, 5, 5, True, 2, HOSTILE, [(1, 0.5)]) for n in (0, 1)]
    lost = QuarantineRow(2, ids[2], "decode", "CorruptImage", HOSTILE)
    tables = [scored_table(best, METRICS), quarantine_table([lost])]
    commit(run, 0, 3, pa.concat_tables(tables, promote_options="default"), None, "stamp")
    write_manifest(run, METRICS, (run / "shards").glob("*.parquet"))
    dataset = DatasetSpec(name=str(folder / "data.parquet")).model_dump()
    record(run, arguments={"dataset": dataset, "model": {"name": HOSTILE}}, notes=[HOSTILE])
    return run, ids


IMAGES = (images.photo(), images.photo()[:-200], b"\x1b[2J nothing")


@pytest.mark.parametrize(
    "options", [(), ("--ratio", "0.5"), ("--by", "l0", "--ratio", "1"), *[("--sample", n) for n in range(3)]]
)
def test_what_data_say_is_text_to_the_terminal(hostile_run, options):
    run, ids = hostile_run
    if "--sample" in options:
        options = ("--sample", ids[options[1]])
    text = shown(run, *options)
    controls = {character for character in text if unicodedata.category(character)[0] == "C"} - {"\n"}
    assert not controls
    assert TAMED in " ".join(text.split()) or "[red]x[/red]" in text
    assert "[bold]data" in text


@pytest.mark.parametrize("kind", ["kitty", "blocks"])
@pytest.mark.parametrize("sample", [None, 0, 1, 2])
def test_nor_does_a_terminal_with_images_obey_them(hostile_run, kind, sample):
    run, ids = hostile_run
    options = () if sample is None else ("--sample", ids[sample])
    code, sent = on_terminal(kind, "show", run, *options, columns=160)
    assert code == 0, sent
    assert "Traceback" not in sent
    for payload in ("\x1b[2J", "\x1b]0;", "\x1b]8;", "\x9b", "\u202e", "\u2066", "\x07"):
        assert payload not in sent
    assert ("CorruptImage" in sent) == (sample != 0)


def test_without_a_terminal_there_are_no_images_and_only_who_asked_is_told(scored_run):
    assert pictures(None) is None
    quiet = curate("show", scored_run, "--sample", "#1")
    assert quiet.stderr == ""
    asked = curate("show", scored_run, "--sample", "#1", "--images")
    assert asked.stderr == "note: images are not shown: the output is no terminal\n"
    assert asked.stdout == quiet.stdout
    assert not re.search("\x1b|▀", asked.stdout)


def test_data_that_changed_are_said_to_have(scored_run, tmp_path):
    run = shutil.copytree(scored_run, tmp_path / "run")
    content = json.loads((run / "run.json").read_text())
    content["arguments"]["dataset"]["seed"] = 1
    (run / "run.json").write_text(json.dumps(content))
    for options in ((), ("--sample", "#1")):
        text = shown(run, *options)
        assert "texts are not shown: demo has changed since the run" in text
        assert "question" not in text
    content["arguments"]["dataset"]["name"] = "/nothing/here"
    (run / "run.json").write_text(json.dumps(content))
    assert "texts are not shown: --dataset /nothing/here" in shown(run)
    assert QUARANTINE in {path.name for path in run.iterdir()}
