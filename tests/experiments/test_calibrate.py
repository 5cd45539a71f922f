"""AUROC and its error against scikit-learn and the bootstrap, what is said of them, and a calibration of the demo."""

import json

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from curate.cli.main import app
from curate.errors import ConfigurationError
from curate.experiments.calibrate import calibrate, plan
from curate.experiments.calibrate_job import CalibrateJob
from curate.experiments.calibration import LAST, Found, sentences
from curate.experiments.paired_auroc import own_share, paired_auroc
from curate.manifest.record import read_record
from curate.storage import location, remove
from tests.pipeline.test_first_pass import OPEN, far_off, sae_folder, unfolded

SCORES = st.lists(st.tuples(*[st.sampled_from((-1.0, 0.0, 0.5, 2.0))] * 2), min_size=2, max_size=30)


@given(SCORES)
@settings(max_examples=200, deadline=None)
def test_auroc_is_that_of_scikit_learn(scores):
    original, damaged = np.array(scores).T
    expected = roc_auc_score([1] * len(scores) + [0] * len(scores), [*original, *damaged])
    found = paired_auroc(original, damaged)
    assert found is not None
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.n_comparisons == len(scores) ** 2
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scores]
    assert own_share(original, damaged).value == pytest.approx(np.mean(wins))


@given(SCORES, st.data())
@settings(max_examples=200, deadline=None)
def test_only_comparisons_of_equal_length_count_where_lengths_are_given(scores, data):
    length = st.lists(st.integers(1, 4), min_size=len(scores), max_size=len(scores))
    lengths = np.array(data.draw(length)), np.array(data.draw(length))
    original, damaged = np.array(scores).T
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, length_a in zip(original, lengths[0], strict=True)
        for b, length_b in zip(damaged, lengths[1], strict=True)
        if length_a == length_b
    ]
    found = paired_auroc(original, damaged, lengths)
    if not wins:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(np.mean(wins))
    assert found.n_comparisons == len(wins)
    assert paired_auroc(*map(np.float64, lengths), lengths).value == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("matched", [False, True])
def test_the_error_is_the_spread_of_resampled_samples_and_not_that_of_independent_groups(matched):
    """Copies score nearly as their originals: resampled independently, the spread would be about three times that."""
    rng = np.random.default_rng(5)
    original = rng.normal(size=150)
    damaged = original - 0.3 + 0.3 * rng.normal(size=150)
    both = rng.integers(1, 5, 150)
    lengths = (both, np.where(rng.random(150) < 0.3, rng.integers(1, 5, 150), both)) if matched else None

    def estimate(rows, other_rows=None):
        other_rows = rows if other_rows is None else other_rows
        given_lengths = None if lengths is None else (lengths[0][rows], lengths[1][other_rows])
        return paired_auroc(original[rows], damaged[other_rows], given_lengths)

    draws = [rng.integers(0, 150, 150) for _ in range(1600)]
    spread = np.std([estimate(rows).value for rows in draws])
    error = estimate(np.arange(150)).standard_error
    # The bootstrap's own noise is 1 / sqrt(2 × 1600), 2%; its bias at 150 samples about as much.
    assert error == pytest.approx(spread, rel=0.1)
    apart = np.std([estimate(a, b).value for a, b in zip(draws[:400], draws[400:800], strict=True)])
    assert apart > 1.5 * error


def found(damage: str, auroc: float, error: float, metric: str = "cosine", **given) -> Found:
    facts = {"own_share": 0.5, "own_standard_error": 0.1, "length_differs": False, "matched_comparisons": 0, "n": 99}
    facts |= {"matched_auroc": None, "matched_standard_error": None}
    return Found(metric=metric, damage=damage, auroc=auroc, standard_error=error, **facts | given)


def test_what_is_said_follows_from_the_figures():
    said = sentences(
        [
            found("blank image", 0.88, 0.01),
            found("noise image", 0.31, 0.02),
            found("blank image", 0.47, 0.01, "l0"),
            found("swapped image", 0.54, 0.02),
            found("exchanged responses", 0.56, 0.02),
            found("shuffled words", 0.7, 0.02, length_differs=True, matched_auroc=0.53, matched_standard_error=0.02),
            found(
                "shuffled words",
                0.9,
                0.02,
                "loglik",
                length_differs=True,
                matched_auroc=0.8,
                matched_standard_error=0.1,
            ),
            found("truncated", 0.4, 0.06, length_differs=True),
            found("chosen of another", 1.0, 0.0, n=19),
        ]
    )
    assert said == [
        "cosine finds well: blank image (0.88 ± 0.01); finds somewhat: shuffled words (0.70 ± 0.02); hardly finds: "
        "exchanged responses (0.56 ± 0.02); misses: swapped image (0.54 ± 0.02); prefers: noise image (0.31 ± 0.02); "
        "too few samples to tell: truncated (0.40 ± 0.06), chosen of another (1.00 ± 0.00).",
        "l0 hardly prefers: blank image (0.47 ± 0.01).",
        "loglik (a control) finds well: shuffled words (0.90 ± 0.02).",
        "shuffled words changes the length; among samples of equal length it is still found by loglik (0.80 ± 0.10).",
        "truncated changes the length, and too few samples of equal length are left to tell more.",
        "9 verdicts by two standard errors: where there is nothing to tell, 1 in 20 says otherwise.",
        LAST,
    ]


def test_a_calibration_of_the_demo_says_what_its_two_runs_hold(tmp_path):
    output = tmp_path / "calibration"
    arguments = ["calibrate", "--samples", "24", "--damages", "truncated,swapped image", "--limit", "60"]
    arguments += ["--metric", "cosine,loglik", "-o", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads((output / "calibration.json").read_text())
    scores = {name: pq.read_table(output / name / "manifest.parquet").to_pylist() for name in ("original", "damaged")}
    original, damaged = ({row["source_row"]: row for row in rows} for rows in scores.values())
    copies = pq.read_table(output / "samples" / "damaged.parquet").to_pylist()
    assert record["samples"] == 24
    assert len(copies) + sum(record["not_applicable"].values()) == 48
    for each in record["found"]:
        rows = [(n, copy["original"]) for n, copy in enumerate(copies) if copy["damage"] == each["damage"]]
        wins = [
            np.sign(original[a][each["metric"]] - damaged[b][each["metric"]]) / 2 + 0.5
            for _, a in rows
            for b, _ in rows
        ]
        assert each["auroc"] == pytest.approx(np.mean(wins), abs=1e-12)
        assert each["n"] == len(rows)
    loglik = next(each for each in record["found"] if (each["metric"], each["damage"]) == ("loglik", "truncated"))
    assert loglik["auroc"] > 0.8
    weights = [json.loads((output / name / "run.json").read_text())["hashes"]["weights"] for name in scores]
    assert weights[0] == weights[1]
    assert (output / "calibration.png").stat().st_size > 10_000
    before = (output / "damaged" / "manifest.parquet").stat().st_mtime_ns
    file = tmp_path / "calibrate.yaml"
    file.write_text(CliRunner().invoke(app, [*arguments, "--print-job"]).stdout)
    tables = {path: path.stat().st_mtime_ns for path in (output / "samples").iterdir()}
    assert CliRunner().invoke(app, ["run", str(file)]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in tables} == tables
    assert (output / "damaged" / "manifest.parquet").stat().st_mtime_ns == before
    refused = CliRunner().invoke(app, [*arguments, "--seed", "1"])
    assert refused.exit_code == 2
    assert "another seed 0 ≠ 1" in refused.output


def test_what_cannot_be_calibrated_is_refused_before_any_work(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"notes\.txt, which is no calibration's"):
        plan(CalibrateJob(output=str(tmp_path / "full")))
    with pytest.raises(ConfigurationError, match="has one row"):
        plan(CalibrateJob.model_validate({"output": str(tmp_path / "new"), "score": {"dataset": {"limit": 1}}}))
    (tmp_path / "d.jsonl").write_text(
        "".join(
            json.dumps({"question": "Q?", "image": f"{n}.png", "chosen": "是", "rejected": "不"}) + "\n"
            for n in range(3)
        )
    )
    for n in range(3):
        Image.new("RGB", (30, 30), (n, 0, 0)).save(tmp_path / f"{n}.png")
    spec = {"dataset": {"name": str(tmp_path / "d.jsonl")}, "model": {"name": "demo"}, "sae": "demo"}
    chinese = {"output": str(tmp_path / "words"), "score": spec, "damages": ["truncated", "shuffled words"]}
    with pytest.raises(ConfigurationError, match="none of them changes any of 3 samples"):
        calibrate(plan(CalibrateJob.model_validate(chinese)), lambda step: None)
    with pytest.raises(ValueError, match=r"score\.output: y ≠ x/original"):
        CalibrateJob.model_validate({"output": "x", "score": {"output": "y"}})
    named = CalibrateJob.model_validate({"output": "x", "score": {"parameters": {"metrics": ["cosine"]}}})
    assert named.score.parameters.metrics == ("cosine", "length", "loglik", "random")
    with pytest.raises(ValueError, match="no damage rust"):
        CalibrateJob(output="x", damages=("rust",))
    assert not (tmp_path / "new").exists()


def test_copies_are_read_as_their_originals_were(tmp_path):
    """Damaged images say nothing about an SAE's scale, nor about its fit."""
    sae = sae_folder(tmp_path / "sae", unfolded, **OPEN)
    score = {"output": str(tmp_path / "out" / "original"), "dataset": {"limit": 40}, "model": {"name": "demo"}}
    job = CalibrateJob.model_validate(
        {
            "output": str(tmp_path / "out"),
            "samples": 20,
            "damages": ("blank image",),
            "score": {**score, "sae": str(sae), "parameters": {"metrics": ("cooccurrence",)}},
        }
    )
    calibrate(plan(job), lambda step: None)
    original, damaged = (read_record(location(str(tmp_path / "out" / name))).sae for name in ("original", "damaged"))
    assert original is not None
    assert original.scale != 1
    assert damaged == original


def test_a_poor_fit_is_allowed_once_for_originals_and_copies(tmp_path):
    sae = sae_folder(tmp_path / "sae", far_off, apply_b_dec_to_input=False)
    command = ["calibrate", "--output", str(tmp_path / "out"), "--sae", str(sae), "--limit", "20", "--samples", "10"]
    command += ["--damages", "blank image", "--metric", "cooccurrence"]
    file = tmp_path / "calibrate.yaml"
    file.write_text(CliRunner().invoke(app, [*command, "--print-job"]).stdout)
    result = CliRunner().invoke(app, ["run", str(file)])
    assert result.exit_code == 2
    assert "score anyway: the same command with --allow-poor-fit (in a job file, allow_poor_fit: true under score)" in (
        result.stderr.replace("\n", " ")
    )
    allowed = tmp_path / "allowed.yaml"
    allowed.write_text(CliRunner().invoke(app, [*command, "--allow-poor-fit", "--print-job"]).stdout)
    assert yaml.safe_load(allowed.read_text())["score"]["allow_poor_fit"] is True
    assert CliRunner().invoke(app, ["run", str(allowed)]).exit_code == 0
    for name in ("original", "damaged"):
        found = read_record(location(str(tmp_path / "out" / name))).sae
        assert found is not None
        assert found.poor
    # Originals that were allowed elsewhere are reason enough.
    remove(location(str(tmp_path / "out" / "damaged")))
    assert CliRunner().invoke(app, ["run", str(file)]).exit_code == 0
