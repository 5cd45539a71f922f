"""Numbers of a manifest, against the plainest way to compute them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from curate.manifest.record import read_record
from curate.manifest.rows import QuarantineRow
from curate.report.html import scores as scores_module
from curate.report.html.galleries import places
from curate.report.html.scores import kept_rows, quarantine_reasons, rank_correlations, read_scores
from tests.report.html.runs import Sample, png, write_run


@given(st.integers(2, 40).flatmap(lambda n: arrays(float, (3, n), elements=st.integers(-5, 5).map(float))))
def test_rank_correlations_are_scipys(columns):
    named = {f"column {number}": values for number, values in enumerate(columns)}
    found = rank_correlations(named)
    assert len(found) == 9
    for (one, other), rho in found.items():
        if len(set(named[one])) == 1 or len(set(named[other])) == 1:
            assert rho is None
        else:
            assert rho == pytest.approx(spearmanr(named[one], named[other]).statistic, abs=1e-12)


def test_a_rank_correlation_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: d² is 1 each, so 1 − 6 · 4 / (4 · 15).
    found = rank_correlations({"a": np.array([0.1, 0.2, 30.0, 31.0]), "b": np.array([5.0, 4.0, 7.0, 6.0])})
    assert found["a", "b"] == pytest.approx(0.6)
    assert rank_correlations({"a": np.empty(0), "b": np.empty(0)})["a", "b"] is None


@pytest.mark.parametrize("drawn", [7, 1_000])
def test_counts_are_of_all_rows_and_quartiles_of_those_drawn(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(scores_module, "MOST_ROWS", drawn)
    monkeypatch.setattr("curate.manifest.verify.READ_ROWS", 4)
    rng = np.random.default_rng(0)
    samples = [
        Sample(
            f"{row}", png(), label=("a", "b", "b", None)[row % 4], scores=(float(rng.normal()), 1.0), text_tokens=row
        )
        for row in range(30)
    ]
    run = write_run(tmp_path / "run", samples)
    order = np.arange(30)
    kept = kept_rows(order, 6)
    found = read_scores(run, read_record(run), "cosine", kept, 1)
    ranked = sorted(samples, key=lambda each: -each.scores[0])
    cosine = np.array([each.scores[0] for each in ranked])
    assert (found.rows, found.drawn, found.sampled) == (30, min(drawn, 30), drawn < 30)
    spread = found.spreads["cosine"]
    assert (spread.lowest, spread.highest) == (cosine.min(), cosine.max())
    assert spread.mean == pytest.approx(cosine.mean())
    assert found.spreads["n_text_tokens"].highest == 29
    assert found.spreads["l0"].constant
    assert set(found.columns["cosine"]) <= set(cosine)
    assert len(found.columns["cosine"]) == found.drawn
    # A drawn row is kept if its score is among the six best.
    assert found.kept.tolist() == (found.columns["cosine"] >= cosine[5]).tolist()
    (label,) = found.labels
    is_b = np.array([each.label == "b" for each in ranked])
    assert (label.label, label.rows, label.kept) == ("b", int(is_b.sum()), int(is_b[:6].sum()))
    assert (found.n_labels, found.unlabelled) == (2, sum(each.label is None for each in samples))
    if drawn > 30:
        assert spread.quartiles == pytest.approx(np.quantile(cosine, [0.25, 0.5, 0.75]))
        assert label.quantiles == pytest.approx(np.quantile(cosine[is_b], [0.05, 0.25, 0.5, 0.75, 0.95]))


def test_kept_rows_are_the_first_in_the_order():
    assert kept_rows(np.array([2, 0, 3, 1]), 2).tolist() == [True, False, True, False]


@given(st.integers(0, 30), st.integers(1, 9), st.data())
def test_galleries_are_the_ends_and_both_sides_of_the_cut(rows, size, data):
    keep = data.draw(st.integers(min(rows, 1), rows))
    ranks = list(range(1, rows + 1))
    kept, others = ranks[:keep], ranks[keep:]
    found = {name: list(each) for name, each in places(keep, rows, size).items()}
    assert found == {
        "best": ranks[:size],
        "above": kept[-size:],
        "below": others[:size],
        "worst": ranks[::-1][:size],
    }


def test_reasons_are_counted_the_most_common_first(tmp_path):
    lost = [QuarantineRow(100 + row, None, "decode", "EmptyText", f"why {row % 3 % 2}") for row in range(9)]
    lost.append(QuarantineRow(200, None, "read", "BadRow", "why 0"))
    run = write_run(tmp_path / "run", [Sample("?", png())], lost)
    reasons, different = quarantine_reasons(run, 2)
    assert different == 3
    assert [(each.error, each.reason, each.rows, each.example) for each in reasons] == [
        ("EmptyText", "why 0", 6, 100),
        ("EmptyText", "why 1", 3, 101),
    ]
