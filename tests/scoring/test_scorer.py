"""Scores of real inputs against the brute-force oracle, and against themselves in other batches."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from transformers import LlavaNextForConditionalGeneration

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.models import inspect_model
from curate.models.family import Reading
from curate.pipeline.transport import pack, unpack
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass
from tests import oracle

DELTA = 1.0


def scored(samples, cut, dictionary, budget=8192, **parameters) -> list[ScoredRow]:
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, **parameters)
    weights = weights_of(samples, cut, dictionary, settings)
    scorer = Scorer(cut, dictionary, settings, weights.weight)
    rows = [row for batch in token_batches(samples, budget) for row in scorer.score(batch)]
    assert all(isinstance(row, ScoredRow) for row in rows)
    return rows  # type: ignore[return-value]


def weights_of(samples, cut, dictionary, settings, budget=8192):
    rows = [sample.source_row for sample in samples]
    first_pass = WeightsPass(cut, dictionary, settings.top_k, rows, context=4096)
    for batch in token_batches(samples, budget):
        for sample in batch:
            first_pass.add(sample)
    return first_pass.weights(settings.weight_rule)


def test_feature_weights_are_the_same_bits_in_whatever_order_samples_come(demo_prepared, demo_cut, demo_dictionary):
    found = []
    for seed in range(4):
        order = random.Random(seed).sample(range(40), 40)
        first_pass = WeightsPass(demo_cut, demo_dictionary, 5, range(200), context=4096)
        for place in order:
            first_pass.add(demo_prepared[place])
        found.append(first_pass.weights("per-modality").weight)
    assert found[0].count_nonzero() > 50
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.fixture(scope="module", params=["demo", "real"])
def samples(request, demo_prepared) -> list[Prepared]:
    if request.param == "demo":
        return demo_prepared[:80]
    return request.getfixturevalue("real_prepared")


@pytest.fixture(scope="module")
def truth(samples):
    """The whole model's hidden states, their activations and modality, in NumPy."""
    hidden = oracle.full_hidden_states(demo.MODEL, [sample.inputs for sample in samples], demo.HOOK_LAYER)
    return hidden, [oracle.encode(demo.SAE, h) for h in hidden], [s.inputs.is_image.numpy() for s in samples]


def noise_may_decide(row: ScoredRow, metric: str) -> bool:
    """The exception that the design allows, if the row says so."""
    return row.near_switch > 0 if metric == "l0" else row.near_delta


@pytest.mark.parametrize("rule", ["per-modality", "merged"])
@pytest.mark.parametrize("over", ["cooccurring", "active"])
def test_every_metric_equals_the_oracle(samples, truth, demo_cut, demo_dictionary, rule, over):
    hidden, activations, is_image = truth
    weights = oracle.weights(activations, hidden, is_image, 5, rule)
    assert 20 < np.isfinite(weights).sum() < len(weights)
    rows = scored(samples, demo_cut, demo_dictionary, weight_rule=rule, cosine_over=over, delta=DELTA)
    exceptions = 0
    for row, z, image in zip(rows, activations, is_image, strict=True):
        features = oracle.cooccurring(z, image, DELTA)
        summed = features if over == "cooccurring" else oracle.active(z, DELTA)
        expected = {"l0": oracle.l0(z), "cooccurrence": len(features), "cosine": oracle.cosine(summed, weights)}
        for name, value in expected.items():
            if row.scores[name] != pytest.approx(value, rel=1e-4, abs=1e-6):
                assert noise_may_decide(row, name), (name, row.scores[name], value)
                exceptions += 1
        assert (row.n_image_tokens, row.n_text_tokens) == (image.sum(), (~image).sum())
    assert exceptions <= len(rows) // 100


@pytest.mark.parametrize("rule", ["per-modality", "merged"])
def test_feature_weights_equal_the_oracle(samples, truth, demo_cut, demo_dictionary, rule):
    hidden, activations, is_image = truth
    expected = oracle.weights(activations, hidden, is_image, 5, rule)
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, weight_rule=rule)
    weights = weights_of(samples, demo_cut, demo_dictionary, settings)
    # A feature may gain or lose its weight, or swap one of its tokens, where activations lie within float noise.
    same = weights.has_weight.numpy() == np.isfinite(expected)
    close = np.isclose(weights.weight.numpy(), np.nan_to_num(expected), atol=1e-4)
    assert (same & close).mean() > 0.995


def test_top_features_are_the_largest_contributions_and_sum_to_the_score(samples, demo_cut, demo_dictionary):
    rows = scored(samples, demo_cut, demo_dictionary, top_features=demo_dictionary.d_sae)
    for row in rows:
        added = [contribution for _, contribution in row.top_features]
        assert added == sorted(added, reverse=True)
        assert sum(added) == pytest.approx(row.scores["cosine"], abs=1e-9)
        assert len(row.top_features) <= row.scores["cooccurrence"]
    few = scored(samples, demo_cut, demo_dictionary, top_features=3)
    assert [row.top_features for row in few] == [row.top_features[:3] for row in rows]


def same_scores(one: list[ScoredRow], other: list[ScoredRow]) -> None:
    """To 1e-5, but for rows where float noise may decide about a feature; those are under 1%."""
    for got, want in zip(one, other, strict=True):
        for metric, value in want.scores.items():
            if got.scores[metric] != pytest.approx(value, abs=1e-5):
                assert noise_may_decide(got, metric) or noise_may_decide(want, metric)
    assert sum(row.near_delta for row in one) < 0.01 * len(one) + 1


@pytest.mark.parametrize("budget", [1, 2000, 20_000])
def test_batch_budget_changes_neither_weights_nor_scores(samples, demo_cut, demo_dictionary, budget):
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER)
    weights = weights_of(samples, demo_cut, demo_dictionary, settings)
    again = weights_of(samples, demo_cut, demo_dictionary, settings, budget)
    assert torch.equal(weights.weight, again.weight)
    scorer = Scorer(demo_cut, demo_dictionary, settings, weights.weight)
    expected = [row for batch in token_batches(samples, 8192) for row in scorer.score(batch)]
    rows = [row for batch in token_batches(samples, budget) for row in scorer.score(batch)]
    same_scores(rows, expected)


def test_chunks_of_tokens_do_not_change_scores(monkeypatch, demo_prepared, demo_cut, demo_dictionary):
    whole = scored(demo_prepared[:20], demo_cut, demo_dictionary)
    monkeypatch.setattr("curate.scoring.scorer.CHUNK_ELEMENTS", demo_dictionary.d_sae * 7)
    same_scores(scored(demo_prepared[:20], demo_cut, demo_dictionary), whole)


def test_quality_labels_do_not_reach_any_score(demo_prepared, demo_cut, demo_dictionary):
    relabelled = [Prepared(s.sample_id, s.source_row, "another label", s.inputs) for s in demo_prepared[:40]]
    one = scored(demo_prepared[:40], demo_cut, demo_dictionary)
    other = scored(relabelled, demo_cut, demo_dictionary)
    assert [row.scores for row in one] == [row.scores for row in other]
    assert {row.quality for row in other} == {"another label"}


def test_a_sample_that_is_not_finite_is_quarantined_alone(demo_prepared, demo_cut, demo_dictionary):
    class Poisoned:
        def hidden_states(self, batch):
            states = [state.clone() for state in demo_cut.hidden_states(batch)]
            for inputs, state in zip(batch, states, strict=True):
                if inputs is demo_prepared[1].inputs:
                    state[3, 4] = float("inf")
            return states

    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("l0", "cooccurrence"))
    rows = Scorer(Poisoned(), demo_dictionary, settings, None).score(demo_prepared[:3])
    assert [type(row) for row in rows] == [ScoredRow, QuarantineRow, ScoredRow]
    assert isinstance(rows[1], QuarantineRow)
    assert (rows[1].error, rows[1].stage, rows[1].sample_id) == ("NonFinite", "score", demo_prepared[1].sample_id)
    first_pass = WeightsPass(Poisoned(), demo_dictionary, 5, [s.source_row for s in demo_prepared[:3]], 4096)
    for sample in demo_prepared[:3]:
        first_pass.add(sample)
    assert first_pass.n_samples == 2


def test_batches_keep_the_budget_and_the_order(demo_prepared):
    for budget in (1, 500, 2000):
        batches = list(token_batches(demo_prepared, budget))
        assert [sample for batch in batches for sample in batch] == demo_prepared
        for batch in batches:
            longest = max(len(sample.inputs.input_ids) for sample in batch)
            assert len(batch) == 1 or longest * len(batch) <= budget


def test_metrics_of_likelihood_equal_the_whole_models_losses_and_change_nothing_else(
    demo_builder, demo_cut, demo_dictionary
):
    """In a batch of several, through a packed batch, against transformers' own logits of each text alone."""
    dataset = open_dataset(DatasetSpec(limit=24))
    names = ("cosine", "l0", "ifd", "margin", "loglik", "length")
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=names)
    prepared = list(prepare(dataset.samples(range(24)), demo_builder, settings.text, settings.likelihood_of))
    info = inspect_model(str(demo.MODEL))
    read = partial(info.family.load_whole(info, torch.float32, "cpu").read, hook_layer=demo.HOOK_LAYER)
    weights = weights_of(prepared, demo_cut, demo_dictionary, settings).weight
    scorer = Scorer(None, demo_dictionary, settings, weights, read)
    rows = [row for batch in token_batches(prepared, 2000) for row in scorer.score(unpack(pack(batch)))]
    lower = Scorer(demo_cut, demo_dictionary, settings.model_copy(update={"metrics": ("cosine", "l0")}), weights)
    whole = LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL, dtype=torch.float32).eval()

    def loss(ids: torch.Tensor, n: int, tensors) -> float:
        labels = ids.clone()
        labels[: len(ids) - n] = -100
        with torch.no_grad():
            return whole(input_ids=ids[None], labels=labels[None], **tensors).loss.item()

    bare = [row for batch in token_batches(prepared, 2000) for row in lower.score(batch)]
    for row, below, (_, sample) in zip(rows, bare, dataset.samples(range(24)), strict=True):
        chosen, rejected = (
            demo_builder.build(sample.image, sample.question, response) for response in (sample.chosen, sample.rejected)
        )
        said = chosen.input_ids[-chosen.n_response :]
        assert demo_builder.decode(said) == sample.chosen
        with_image = loss(chosen.input_ids, chosen.n_response, chosen.tensors)
        alone = loss(torch.cat([torch.tensor([demo_builder.bos_token_id]), said]), len(said), {})
        other = loss(rejected.input_ids, rejected.n_response, rejected.tensors)
        assert row.scores["loglik"] == pytest.approx(-with_image, abs=1e-5)
        assert row.scores["ifd"] == pytest.approx(with_image / alone, abs=1e-5)
        assert row.scores["margin"] == pytest.approx(other - with_image, abs=1e-5)
        assert row.scores["length"] == row.n_text_tokens == below.n_text_tokens
        assert {name: row.scores[name] for name in ("cosine", "l0")} == below.scores


def test_a_likelihood_that_is_not_finite_quarantines_its_sample_alone(demo_prepared, demo_cut, demo_dictionary):
    def read(batch):
        return [
            Reading(hidden, torch.full((3,), float("-inf") if inputs is demo_prepared[1].inputs else -1.0))
            for inputs, hidden in zip(batch, demo_cut.hidden_states(batch), strict=True)
        ]

    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("loglik",))
    rows = Scorer(None, demo_dictionary, settings, None, read).score(demo_prepared[:3])
    assert [type(row) for row in rows] == [ScoredRow, QuarantineRow, ScoredRow]
    assert "loglik" in rows[1].reason
