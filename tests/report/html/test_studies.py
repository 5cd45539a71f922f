"""Which calibration and which sweep go with a run, and that a page shows them."""

import json
from pathlib import Path

import pytest
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.experiments.calibration import Calibration, Found, sentences
from curate.experiments.records import CALIBRATION, SWEEP
from curate.experiments.sweep_results import Cell, SweepRecord, Tuned, findings, means
from curate.manifest.record import read_record
from curate.report.html.studies import calibration_of, sweep_of
from tests.report.html.runs import Sample, png, write_run
from tests.report.html.test_page import PAYLOADS, plain, reported

HASHES = {"dataset": "d" * 64, "model": "m" * 64, "sae": "s" * 64, "weights": None}


def found(metric: str, damage: str, auroc: float, length: bool = False) -> Found:
    return Found(
        metric=metric,
        damage=damage,
        n=100,
        auroc=auroc,
        standard_error=0.02,
        own_share=0.5,
        own_standard_error=0.1,
        length_differs=length,
        matched_auroc=0.61 if length else None,
        matched_standard_error=0.03 if length else None,
        matched_comparisons=5,
    )


def calibrated(folder: Path, metric: str = "cosine", damage: str = "blank image", **changes) -> UPath:
    each = [found(metric, damage, 0.91), found(metric, "truncated", 0.35, True), found("random", damage, 0.5)]
    facts = {
        "version": "0",
        "job": {},
        "hashes": HASHES,
        "hook_layer": 2,
        "samples": 100,
        "unreadable": 0,
        "not_applicable": {},
        "quarantined": 0,
        "found": each,
        "sentences": sentences(each),
    }
    folder.mkdir(exist_ok=True, parents=True)
    (folder / CALIBRATION).write_text(Calibration.model_validate({**facts, **changes}).model_dump_json())
    return UPath(folder)


def swept(folder: Path, run_hash: str, metric: str = "cosine") -> UPath:
    def tuned(relative: float, weight: float) -> Tuned:
        return Tuned(
            model_sha256="m",
            n_train=9,
            steps=2,
            relative=relative,
            macro=relative,
            categories={},
            n=9,
            failures=0,
            seconds=1,
            mean_weight=weight,
            features=5,
        )

    places = [(metric, 0.5), ("random", 0.5), ("full", 1.0)]
    cells = [
        Cell(
            method=method,
            metric=name,
            ratio=ratio,
            seed=seed,
            n_samples=5,
            training=f"{method}-{name}-{seed}",
            tuned=tuned(90 + number + seed, number),
        )
        for method in ("sft", "dpo")
        for number, (name, ratio) in enumerate(places)
        for seed in (0, 1)
    ]
    mean = means(cells)
    record = SweepRecord(
        job={},
        decides={"run": run_hash},
        trainings=12,
        base=tuned(88, 1),
        base_error=None,
        cells=tuple(cells),
        means=mean,
        correlations=(),
        findings=findings(None, mean, ()),
        seconds=1,
    )
    folder.mkdir(exist_ok=True, parents=True)
    (folder / SWEEP).write_text(record.model_dump_json())
    return UPath(folder)


def test_what_lies_in_or_around_the_run_is_found_if_it_is_the_runs(tmp_path):
    run = write_run(tmp_path / "study" / "run", plain(2), data=tmp_path / "data.parquet")
    record = read_record(run)
    assert calibration_of(run, record, None) is None
    assert sweep_of(run, record, None) is None
    calibrated(tmp_path / "study")
    swept(tmp_path / "study", record.run_hash)
    assert calibration_of(run, record, None).folder == UPath(tmp_path / "study")
    assert sweep_of(run, record, None).folder == UPath(tmp_path / "study")
    calibrated(tmp_path / "study" / "run")
    assert calibration_of(run, record, None).folder == run
    calibrated(tmp_path / "study" / "run", hashes={**HASHES, "sae": "another"})
    assert calibration_of(run, record, None).folder == UPath(tmp_path / "study")
    calibrated(tmp_path / "study", hashes={**HASHES, "model": "another"})
    swept(tmp_path / "study", "another")
    assert calibration_of(run, record, None) is None
    assert sweep_of(run, record, None) is None


def test_what_is_named_is_shown_with_how_it_differs(tmp_path):
    run = write_run(tmp_path / "run", plain(2))
    folder = calibrated(tmp_path / "a", hashes={**HASHES, "model": "another", "sae": "another"})
    _, page, _ = reported(run, calibration=folder, sweep=swept(tmp_path / "b", "another"))
    assert "it was made with another model and made with another SAE" in page.text
    assert "it was made of another run" in page.text
    assert page.section("calibration")
    assert page.section("sweep")
    for said in ("0.91 ± 0.02", "0.61 ± 0.03", "finds well: blank image", "sft: cosine beats random selection"):
        assert said in page.text
    titles = [each.get("aria-labelledby") for each in page.all("svg")]
    assert {"sweep-7-title", "sweep-8-title"} <= set(titles)


@pytest.mark.parametrize("payload", PAYLOADS[::3])
def test_no_payload_in_a_study_becomes_markup(payload, tmp_path):
    run = write_run(tmp_path / "run", [Sample("?", png())])
    calibration = calibrated(tmp_path / "a", payload, payload)
    _, page, _ = reported(run, calibration=calibration, sweep=swept(tmp_path / "b", "another", payload))
    assert page.text.count(payload) >= 5


@pytest.mark.parametrize(("content", "error"), [(None, ConfigurationError), ("{}", DataError), ("\0", DataError)])
@pytest.mark.parametrize(("option", "name"), [("calibration", CALIBRATION), ("sweep", SWEEP)])
def test_a_study_that_is_not_there_or_damaged_is_refused(tmp_path, content, error, option, name):
    run = write_run(tmp_path / "run", plain(1))
    folder = tmp_path / "study"
    folder.mkdir()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(error, match=name if content else f"--{option}"):
        reported(run, **{option: UPath(folder)})


def test_a_sweep_whose_cells_all_failed_is_shown(tmp_path):
    run = write_run(tmp_path / "run", plain(1))
    folder = swept(tmp_path / "b", "another")
    record = json.loads((folder / SWEEP).read_text())
    record |= {"cells": [{**cell, "tuned": None, "error": "no"} for cell in record["cells"]], "means": [], "base": None}
    (folder / SWEEP).write_text(json.dumps({**record, "base_error": "no", "findings": []}))
    _, page, _ = reported(run, sweep=folder)
    assert "13 cells lack something" in page.text
