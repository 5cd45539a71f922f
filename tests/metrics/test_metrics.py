"""Metrics against the brute-force oracle, under activations that hypothesis invents."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from curate.metrics import METRICS
from curate.metrics.activity import Activity, joined
from curate.metrics.cosine import contributions
from curate.metrics.metric import Evidence
from curate.metrics.parameters import MetricParameters
from curate.metrics.weights import TopTokens, feature_weights
from tests import oracle

# Few distinct values, so that ties, zeros and values at the bound are common.
LEVELS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)


@st.composite
def samples(draw, max_tokens: int = 12, features: int = 6):
    """A sample's activations and which of its tokens are image tokens; one modality may be absent."""
    tokens = draw(st.integers(1, max_tokens))
    z = draw(arrays(np.float32, (tokens, features), elements=st.sampled_from(LEVELS)))
    is_image = draw(arrays(np.bool_, tokens))
    return z, is_image


def measured(z: np.ndarray, is_image: np.ndarray, chunk: int) -> Activity:
    """Reduced part by part, and joined."""
    zeros = np.zeros((1, z.shape[1]), np.float32)
    parts = []
    for start in range(0, len(z), chunk):
        part, image = z[start : start + chunk], is_image[start : start + chunk]
        peaks = (np.concatenate([part[mask], zeros]).max(0) for mask in (~image, image))
        counted = part if start else part[1:]
        parts.append(Activity(*map(torch.from_numpy, peaks), torch.tensor((counted > 0).sum()), len(part)))
    return joined(parts)


@given(samples(), st.integers(1, 12), st.sampled_from((0.0, 0.5, 1.0, 2.0)), st.sampled_from(("cooccurring", "active")))
@settings(max_examples=400, deadline=None)
def test_metrics_equal_the_oracle_whatever_the_parts_of_a_text(sample, chunk, delta, over):
    z, is_image = sample
    feature_weights_ = np.linspace(-1, 1, z.shape[1])
    parameters = MetricParameters(delta=delta, cosine_over=over)
    evidence = Evidence("id", measured(z, is_image, chunk), 0, torch.from_numpy(feature_weights_), {}, parameters)
    features = oracle.cooccurring(z, is_image, delta) if over == "cooccurring" else oracle.active(z, delta)
    assert METRICS["l0"].score(evidence) == pytest.approx(oracle.l0(z), rel=1e-6)
    assert METRICS["cooccurrence"].score(evidence) == len(oracle.cooccurring(z, is_image, delta))
    assert METRICS["cosine"].score(evidence) == pytest.approx(oracle.cosine(features, feature_weights_), abs=1e-9)
    assert contributions(evidence).nonzero().flatten().tolist() == [f for f in features if feature_weights_[f] != 0]


@st.composite
def corpora(draw):
    """Several samples with hidden states, some of them equal, some zero."""
    d_model, features = 3, 4
    corpus = draw(st.lists(samples(max_tokens=14, features=features), min_size=1, max_size=6))
    values = st.sampled_from((-1.0, 0.0, 0.5, 2.0))
    hidden = [draw(arrays(np.float32, (len(z), d_model), elements=values)) for z, _ in corpus]
    return [(z, is_image, h) for (z, is_image), h in zip(corpus, hidden, strict=True)]


@given(corpora(), st.integers(1, 3), st.sampled_from(("per-modality", "merged")), st.integers(1, 14), st.data())
@settings(max_examples=400, deadline=None)
def test_feature_weights_equal_the_oracle_however_the_work_is_divided(corpus, k, rule, chunk, data):
    workers = data.draw(st.integers(1, 3))
    kept = [
        [TopTokens(4, 3, k, rule, torch.device("cpu"), torch.float32) for _modality in range(2)]
        for _worker in range(workers)
    ]
    order = data.draw(st.permutations(range(len(corpus))))
    for place in order:
        z, is_image, hidden = (torch.from_numpy(part) for part in corpus[place])
        text, image = kept[data.draw(st.integers(0, workers - 1))]
        index = place * 100 + torch.arange(len(z))
        for start in range(0, len(z), chunk):
            part = slice(start, start + chunk)
            for top, mask in ((text, ~is_image[part]), (image, is_image[part])):
                for features in (slice(0, 3), slice(3, 4)):
                    top.add(z[part][mask][:, features], hidden[part][mask], index[part][mask], features)
    for other in kept[1:]:
        for mine, theirs in zip(kept[0], other, strict=True):
            mine.merge(theirs)
    result = feature_weights(*kept[0])
    expected = oracle.weights(
        [z for z, _, _ in corpus], [h.astype(float) for _, _, h in corpus], [i for _, i, _ in corpus], k, rule
    )
    assert result.has_weight.tolist() == (~np.isnan(expected)).tolist()
    np.testing.assert_allclose(result.weight.numpy(), np.nan_to_num(expected), atol=1e-6)


@pytest.mark.parametrize(("rule", "kept"), [("per-modality", True), ("merged", False)])
def test_merged_rule_drops_a_feature_whose_image_tokens_are_not_among_the_30_strongest(rule, kept):
    tokens = 40
    z = torch.ones(tokens, 1)
    z[:35] = 2.0
    is_image = torch.arange(tokens) >= 35
    hidden = torch.ones(tokens, 2)
    tops = []
    for mask in (~is_image, is_image):
        top = TopTokens(1, 2, 5, rule, torch.device("cpu"), torch.float32)
        top.add(z[mask], hidden[mask], torch.arange(tokens)[mask])
        tops.append(top)
    assert feature_weights(*tops).has_weight.tolist() == [kept]


def test_activations_that_are_not_finite_are_left_out_of_the_strongest():
    z = torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0], [3.0, float("nan")], [4.0, 0.0]])
    top = TopTokens(2, 1, 2, "per-modality", torch.device("cpu"), torch.float32)
    top.add(z, torch.arange(4.0)[:, None], torch.arange(4))
    assert [sorted(row) for row in top.vectors[:, :, 0].tolist()] == [[2.0, 3.0], [0.0, 1.0]]


def test_random_depends_on_seed_and_id_alone_and_is_uniform():
    def score(sample_id: str, seed: int, value: float) -> float:
        activity = measured(np.full((2, 3), value, np.float32), np.array([True, False]), 2)
        return METRICS["random"].score(Evidence(sample_id, activity, 0, None, {}, MetricParameters(seed=seed)))

    assert score("a", 0, 1.0) == score("a", 0, 2.0)
    assert len({score("a", 0, 1.0), score("a", 1, 1.0), score("b", 0, 1.0)}) == 3
    scores = np.array([score(str(index), 0, 1.0) for index in range(4000)])
    assert scores.min() >= 0
    assert scores.max() < 1
    counts, _ = np.histogram(scores, bins=20, range=(0, 1))
    assert ((counts - 200) ** 2 / 200).sum() < 45.3  # χ² with 19 degrees of freedom, p = 0.0006


def test_a_sample_of_one_token_scores_zero_l0():
    activity = measured(np.ones((1, 3), np.float32), np.array([False]), 1)
    evidence = Evidence("id", activity, 1, None, {}, MetricParameters())
    assert METRICS["l0"].score(evidence) == 0
    assert math.isfinite(METRICS["l0"].score(evidence))


def test_metrics_of_likelihood_are_the_ratios_and_differences_that_they_say():
    activity = measured(np.ones((1, 3), np.float32), np.array([False]), 1)

    def scores(**likelihood) -> dict[str, float]:
        evidence = Evidence("id", activity, 7, None, likelihood, MetricParameters())
        return {name: METRICS[name].score(evidence) for name in ("ifd", "margin", "loglik", "length")}

    found = scores(chosen=-0.5, rejected=-2.0, alone=-4.0)
    assert found == {"ifd": 0.125, "margin": 1.5, "loglik": -0.5, "length": 7.0}
    assert scores(chosen=-0.5, rejected=-2.0, alone=0.0)["ifd"] == math.inf
    assert {text for metric in METRICS.values() for text in metric.likelihood_of} == {"chosen", "rejected", "alone"}
