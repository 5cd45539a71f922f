"""The paper's figures stand beside a sweep's where model, data and kind of bench are the same, and nowhere else."""

import pytest

from curate.experiments.published import FILE, Published, comparisons

BENCH = "llava-bench-in-the-wild"
FOUND = {
    ("sft", "cosine", 0.2): 90.0,
    ("sft", "random", 0.2): 80.0,
    ("sft", "full", 1.0): 75.0,
    ("dpo", "cosine", 0.2): 60.0,
}


def test_each_method_has_a_line_with_its_share_of_all_data():
    best, cosine, *dpo = comparisons("llava-hf/llava-v1.6-mistral-7b-hf", "align-anything", BENCH, FOUND)
    assert (best.method, best.metric, best.ratio, best.here) == ("sft", "cooccurrence", 0.5, None)
    assert (cosine.score, cosine.percent_of_all_data) == (104.2, 108)
    assert (cosine.here, cosine.here_percent_of_all_data) == (90.0, pytest.approx(120))
    assert [(each.method, each.here, each.here_percent_of_all_data) for each in dpo] == [
        ("dpo", None, None),
        ("dpo", 60.0, None),  # nothing was trained on all data, so there is no share of it
    ]


@pytest.mark.parametrize(
    ("model", "dataset", "bench"),
    [
        ("llava-hf/llava-v1.6-vicuna-7b-hf", "align-anything", BENCH),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "rlaif-v", BENCH),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "align-anything", "demo"),
        ("demo", "demo", "demo"),
    ],
)
def test_another_model_data_set_or_bench_has_none(model, dataset, bench):
    assert comparisons(model, dataset, bench, FOUND) == ()


def test_a_folder_of_the_models_name_is_that_model():
    assert comparisons("/models/Chameleon-7B", "rlaif-v", BENCH, FOUND)[0].score == 54.23


def test_a_figure_whose_metric_is_not_known_stands_beside_every_metric_of_features():
    found = {("sft", metric, 0.7): 50.0 for metric in ("cosine", "l0", "ifd", "random")}
    lines = comparisons("facebook/chameleon-7b", "align-anything", BENCH, found)
    assert [(each.metric, each.score, each.here) for each in lines] == [("cosine", 52.13, 50.0), ("l0", 52.13, 50.0)]


def test_every_figure_names_its_source_and_is_above_all_data():
    published = Published.model_validate_json(FILE.read_text())
    assert "2502.17514" in published.source
    assert all(figure.percent_of_all_data > 100 and 0 < figure.ratio < 1 for figure in published.figures)
