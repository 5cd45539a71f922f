"""Relative scores, against independent computations."""

import json
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from curate.errors import DataError
from curate.evaluation.benches.folder import read_rows
from curate.evaluation.reviews import Review, Scored, scored
from curate.evaluation.summary import published, summarize

CATEGORIES = ("llava_bench_conv", "llava_bench_detail", "complex", None)
PAIR = st.one_of(
    st.just([-1, -1]), st.tuples(*[st.one_of(st.integers(1, 10), st.floats(1, 10, width=16))] * 2).map(list)
)


@st.composite
def review_files(draw) -> list[dict]:
    rows = []
    for number in range(draw(st.integers(1, 30))):
        category, pair = draw(st.sampled_from(CATEGORIES)), draw(PAIR)
        row = {"id": number + 1, "question_id": number, "content": f"{pair[0]} {pair[1]}\nWhy."}
        # Without a category the older files have `score`.
        row |= {"score": pair} if category is None else {"tuple": pair, "category": category}
        rows.append(row)
    return rows


def published_script(rows: list[dict]) -> dict[str, tuple[float, float, float]]:
    """The rule of LLaVA's summarize_gpt_review.py, written again."""
    columns = defaultdict(list)
    for row in rows:
        pair = row["tuple"] if "tuple" in row else row["score"]
        for name in (row["category"], "all") if "category" in row else ("all",):
            columns[name].append(pair)
    lines = {}
    for name, pairs in columns.items():
        first, second = (round(float(mean), 3) for mean in np.mean(np.array(pairs), axis=0))
        lines[name] = (round(second / first * 100, 1), round(first * 10, 1), round(second * 10, 1))
    return lines


@given(review_files())
def test_published_numbers_are_those_of_the_script(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("reviews") / "reviews.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        expected = published_script(rows)
    except ZeroDivisionError:
        with pytest.raises(DataError, match="zero in the mean"):
            published(read_rows(file, Review))
        return
    found = {name: tuple(line.model_dump().values()) for name, line in published(read_rows(file, Review)).items()}
    assert found == expected
    assert list(found) == sorted(found)


@given(review_files())
@settings(max_examples=10)  # each resamples
def test_robust_figures_leave_failures_out(rows):
    reviews = [Review.model_validate(row).reread() for row in rows]
    good = [(row.get("category"), *(row.get("tuple") or row["score"])) for row in rows if "-1" not in row["content"]]
    if not good:
        with pytest.raises(DataError, match="no question has scores"):
            summarize(*scored(reviews))
        return
    summary = summarize(*scored(reviews))
    assert (summary.n, summary.failures) == (len(good), len(rows) - len(good))

    def relative(chosen: list) -> float:
        return 100 * sum(row[2] for row in chosen) / sum(row[1] for row in chosen)

    assert summary.pooled.relative == pytest.approx(relative(good))
    by_category = {name: [row for row in good if row[0] == name] for name in {row[0] for row in good} - {None}}
    assert {name: figures.n for name, figures in summary.categories.items()} == {
        name: len(chosen) for name, chosen in by_category.items()
    }
    expected = [relative(chosen) for chosen in by_category.values()] or [relative(good)]
    assert summary.macro.relative == pytest.approx(sum(expected) / len(expected))
    if summary.n < 2:
        assert summary.pooled.low is summary.pooled.high is None
    else:
        assert summary.pooled.low - 1e-9 <= summary.pooled.relative <= summary.pooled.high + 1e-9


def test_both_orders_are_averaged_and_one_failure_fails_the_question():
    def review(number, pair, order):
        return Review.model_validate({"question_id": number, "category": "c", "tuple": pair, "order": order})

    rows = [
        review(1, (8, 6), "reference-first"),
        review(1, (6, 7), "candidate-first"),
        review(2, (9, 9), "reference-first"),
        review(2, (-1, -1), "candidate-first"),
    ]
    assert scored(rows) == ([Scored("c", 7, 6.5)], 1)


def test_what_is_read_anew_is_turned_round_where_the_candidate_came_first():
    row = {"question_id": 1, "category": "c", "content": "9 4", "tuple": (-1, -1), "order": "candidate-first"}
    assert Review.model_validate(row).reread().pair == (4, 9)


def test_intervals_agree_with_scipy():
    rng = random.Random(5)
    found = [Scored(rng.choice("ab"), rng.uniform(5, 10), rng.uniform(1, 10)) for _ in range(80)]
    summary = summarize(found, 0)
    for figures, chosen in (
        (summary.pooled, found),
        (summary.categories["a"], [each for each in found if each.category == "a"]),
    ):
        columns = [[each.candidate for each in chosen], [each.reference for each in chosen]]
        interval = bootstrap(
            columns,
            lambda candidate, reference, axis: 100 * candidate.mean(axis) / reference.mean(axis),
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=5000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = interval.high - interval.low
        assert abs(figures.low - interval.low) < 0.1 * width
        assert abs(figures.high - interval.high) < 0.1 * width
    assert summary == summarize(found, 0)
    # The mean of two independent categories scatters as the root of the sum of their squares, halved.
    widths = [figures.high - figures.low for figures in summary.categories.values()]
    expected = sum(width**2 for width in widths) ** 0.5 / 2
    assert summary.macro.high - summary.macro.low == pytest.approx(expected, rel=0.15)
