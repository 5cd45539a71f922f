"""Features of a run as a report lists them, against counting by hand."""

import numpy as np
import pytest

from curate.errors import ConfigurationError
from curate.interpret.live import live_features
from curate.manifest.record import read_record
from curate.report.html.features import read_features
from curate.report.html.scores import kept_rows
from tests.report.html.runs import (
    IMAGE_PEAKS,
    LIVE,
    TEXT_PEAKS,
    WEIGHTS,
    Sample,
    add_weights,
    of_weights,
    png,
    write_run,
)
from tests.report.html.test_page import plain, reported


def test_live_features_are_told_by_their_peaks(tmp_path):
    run = write_run(tmp_path / "run", plain(1))
    add_weights(run)
    live = live_features(run, 1.0)
    assert (live.cross_modal, live.text_only, live.image_only, live.inactive) == tuple(LIVE.values())
    assert (live.text_peak.tolist(), live.image_peak.tolist()) == (TEXT_PEAKS.tolist(), IMAGE_PEAKS.tolist())
    assert live.heaviest(3) == [2, 0, 5]
    assert live.heaviest(99) == [2, 0, 5, 4, 3, 1]  # of the others there is no weight
    # Active is above delta, and not at it.
    assert live_features(run, 2.0).cross_modal == [4]
    with pytest.raises(ConfigurationError):
        live_features(tmp_path, 1.0)


def test_features_are_counted_in_kept_samples_and_in_others(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.manifest.verify.READ_ROWS", 3)
    of_row = [((3, 1.0), (1, 0.5)), ((3, 0.5),), (), ((7, 1.0), (3, 0.1)), ((1, 0.2),)]
    samples = [Sample(f"{row}", png(), features=features) for row, features in enumerate(of_row)]
    run = write_run(tmp_path / "run", samples, hashes=of_weights())
    add_weights(run)
    found = read_features(run, read_record(run), kept_rows(np.arange(5), 2), {3: "three"}, 2)
    assert [(each.feature, each.kept, each.dropped) for each in found.frequent] == [(3, 1.0, 1 / 3), (1, 0.5, 1 / 3)]
    first = found.frequent[0]
    assert (first.label, first.weight, first.fires, first.text_peak) == ("three", float(WEIGHTS[3]), "nothing", 0.5)
    assert [(each.feature, each.kept) for each in found.heaviest] == [(2, 0.0), (0, 0.0)]


def test_a_page_shows_weights_live_features_and_labels(tmp_path):
    run = write_run(tmp_path / "run", plain(), hashes=of_weights())
    add_weights(run)
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"index": "3", "description": "words of colour"}\n')
    _, page, _ = reported(run, labels=labels)
    assert page.text.count("words of colour") > 20  # in the table, and on every card
    words = "".join(page.text.split())
    for said in ("cross-modal2active", "textonly2active", "imageonly2active", "inactive2active", "withoutweight2of8"):
        assert said in words
    _, page, _ = reported(run)
    assert "--labels FILE" in page.text


def test_weights_that_are_damaged_are_missed_in_their_place(tmp_path):
    run = write_run(tmp_path / "run", plain(), hashes=of_weights())
    _, page, _ = reported(run)
    assert "does not hold whole feature weights" in page.text
