"""AUROC and its standard error against brute force and bootstrap."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from curate.errors import DataError
from curate.experiments.labels import auroc, label_report

SCORES = st.lists(st.sampled_from((0.0, 1.0, 2.0, 3.5)), min_size=2, max_size=20)


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_pairs_in_the_right_order(clean, other):
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in clean for b in other]
    assert auroc(np.array(clean), np.array(other))[0] == pytest.approx(np.mean(pairs))


def test_the_standard_error_agrees_with_the_bootstrap():
    rng = np.random.default_rng(0)
    clean, other = rng.normal(0.7, 1, 300), rng.normal(0, 1.5, 120)
    draws = [auroc(rng.choice(clean, len(clean)), rng.choice(other, len(other)))[0] for _ in range(2000)]
    assert auroc(clean, other)[1] == pytest.approx(np.std(draws), rel=0.08)


def test_every_score_is_reported_against_every_label_and_beside_token_counts():
    quality = ["clean"] * 4 + ["blank image"] * 3 + ["noise image"] * 2 + [None]
    table = pa.table(
        {
            "quality": quality,
            "cosine": [3.0, 3.0, 2.0, 4.0, 1.0, 1.0, 0.0, 9.0, 9.0, 5.0],
            "n_text_tokens": [5] * 10,
            "n_image_tokens": [1, 1, 1, 1, 2, 2, 2, 0, 0, 0],
        }
    )
    reports = {(entry.score, entry.label): entry for entry in label_report(table, ["cosine"])}
    assert set(reports) == {
        (s, q) for s in ("cosine", "n_tokens", "n_text_tokens") for q in ("blank image", "noise image")
    }
    assert reports["cosine", "blank image"].auroc == 1.0
    assert reports["cosine", "noise image"].auroc == 0.0
    assert reports["n_tokens", "blank image"].auroc == 0.0
    assert reports["n_text_tokens", "noise image"].auroc == 0.5
    assert (reports["cosine", "blank image"].n_clean, reports["cosine", "blank image"].n_labelled) == (4, 3)


def test_data_without_labels_have_nothing_to_report():
    table = pa.table({"quality": pa.array([None, None], pa.string())})
    with pytest.raises(DataError, match="no quality labels"):
        label_report(table, [])
