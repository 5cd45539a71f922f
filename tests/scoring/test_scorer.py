"""Scores of real inputs against the brute-force oracle, and against themselves in other batches."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from transformers import LlavaNextForConditionalGeneration

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.manifest.rows import QuarantineRow, ScoredRow
from curate.metrics.parameters import MetricParameters
from curate.models.families import inspect_model
from curate.models.family import Reading
from curate.models.packing import pack
from curate.pipeline.transport import batch_from_bytes, batch_to_bytes
from curate.sae import firing
from curate.scoring.memory import batch_tokens
from curate.scoring.parameters import ScoringParameters
from curate.scoring.prepare import Prepared, prepare, token_batches
from curate.scoring.scorer import Scorer
from curate.scoring.weights_pass import WeightsPass
from tests import oracle

DELTA = 1.0


def scored(samples, cut, dictionary, budget=8192, **parameters) -> list[ScoredRow]:
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, **parameters)
    weights = weights_of(samples, cut, dictionary, settings)
    return scored_by(Scorer(cut, dictionary, settings, weights.weight), samples, budget)


def scored_by(scorer, samples, budget=8192) -> list[ScoredRow]:
    rows = [row for batch in token_batches(samples, budget) for row in scorer.score(batch)]
    assert all(isinstance(row, ScoredRow) for row in rows)
    return rows  # type: ignore[return-value]


def weights_of(samples, cut, dictionary, settings, budget=8192):
    rows = [sample.source_row for sample in samples]
    first_pass = WeightsPass(cut, dictionary, settings, rows, context=4096)
    for batch in token_batches(samples, budget):
        for sample in batch:
            first_pass.add(sample)
    return first_pass.weights()


def test_feature_weights_are_the_same_bits_in_whatever_order_samples_come(demo_prepared, demo_cut, demo_dictionary):
    found = []
    for seed in range(4):
        order = random.Random(seed).sample(range(40), 40)
        first_pass = WeightsPass(demo_cut, demo_dictionary, MetricParameters(), range(200), context=4096)
        for place in order:
            first_pass.add(demo_prepared[place])
        found.append(first_pass.weights().weight)
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


def carried(batch):
    """As it comes to a scoring actor."""
    return batch_from_bytes(batch_to_bytes(batch))


def noise_may_decide(row: ScoredRow, metric: str) -> bool:
    """The exception that the design allows, if the row says so."""
    return row.near_switch > 0 if metric == "l0" else row.near_delta


@pytest.fixture(scope="module", params=["per-modality", "merged"])
def ruled(request, samples, truth, demo_cut, demo_dictionary):
    """A rule of feature weights, the weights by it, and the oracle's."""
    hidden, activations, is_image = truth
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, weight_rule=request.param)
    weights = weights_of(samples, demo_cut, demo_dictionary, settings)
    return request.param, weights, oracle.weights(activations, hidden, is_image, 5, request.param)


@pytest.mark.parametrize("over", ["cooccurring", "active"])
def test_every_metric_equals_the_oracle(samples, truth, ruled, demo_cut, demo_dictionary, over):
    _, activations, is_image = truth
    rule, ours, weights = ruled
    assert 20 < np.isfinite(weights).sum() < len(weights)
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, weight_rule=rule, cosine_over=over, delta=DELTA)
    rows = scored_by(Scorer(demo_cut, demo_dictionary, settings, ours.weight), samples)
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


def test_feature_weights_equal_the_oracle(ruled):
    _, weights, expected = ruled
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


def test_batch_budget_changes_neither_weights_nor_scores(samples, demo_cut, demo_dictionary):
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER)
    weights = weights_of(samples, demo_cut, demo_dictionary, settings)
    scorer = Scorer(demo_cut, demo_dictionary, settings, weights.weight)
    expected = scored_by(scorer, samples)
    for budget in (1, 2000, 20_000):
        again = weights_of(samples, demo_cut, demo_dictionary, settings, budget)
        assert torch.equal(weights.weight, again.weight), budget
        same_scores(scored_by(scorer, samples, budget), expected)


def test_blocks_of_activations_change_neither_weights_nor_scores(monkeypatch, demo_prepared, demo_cut, demo_dictionary):
    samples, settings = demo_prepared[:20], ScoringParameters(hook_layer=demo.HOOK_LAYER)
    weights = weights_of(samples, demo_cut, demo_dictionary, settings).weight
    whole = scored(samples, demo_cut, demo_dictionary)
    monkeypatch.setattr(firing, "BLOCK_ELEMENTS", {"cpu": 3000})
    monkeypatch.setattr(firing, "MOST_TOKENS", 40)
    assert len(list(firing.blocks(demo_dictionary, 70))) > 10
    torch.testing.assert_close(weights_of(samples, demo_cut, demo_dictionary, settings).weight, weights)
    same_scores(scored(samples, demo_cut, demo_dictionary), whole)


@pytest.mark.parametrize("architecture", ["standard", "topk", "gated"])
def test_other_architectures_score_as_all_activations_at_once_say(
    demo_prepared, demo_cut, demo_dictionary, architecture
):
    shapes = {"magnitude_scale": torch.ones(768) * 2, "magnitude_shift": torch.linspace(-1, 1, 768)}
    extra = {"topk": {"k": 12}, "gated": shapes}.get(architecture, {})
    dictionary = replace(demo_dictionary, architecture=architecture, threshold=None, **extra)
    weights = torch.linspace(-1, 1, 768, dtype=torch.float64)
    scorer = Scorer(demo_cut, dictionary, ScoringParameters(hook_layer=demo.HOOK_LAYER), weights)
    for sample, row in zip(demo_prepared[:10], scorer.score(demo_prepared[:10]), strict=True):
        assert isinstance(row, ScoredRow)
        z = dictionary.encode(demo_cut.hidden_states(pack([sample.inputs]))).numpy()
        features = oracle.cooccurring(z, sample.inputs.is_image.numpy(), DELTA)
        assert row.scores["l0"] == pytest.approx(oracle.l0(z), abs=1e-5) or row.near_switch
        assert row.scores["cooccurrence"] == len(features) or row.near_delta
        assert row.scores["cosine"] == pytest.approx(float(weights[features].sum()), abs=1e-6) or row.near_delta


def test_quality_labels_do_not_reach_any_score(demo_prepared, demo_cut, demo_dictionary):
    relabelled = [Prepared(s.sample_id, s.source_row, "another label", s.inputs) for s in demo_prepared[:40]]
    one = scored(demo_prepared[:40], demo_cut, demo_dictionary)
    other = scored(relabelled, demo_cut, demo_dictionary)
    assert [row.scores for row in one] == [row.scores for row in other]
    assert {row.quality for row in other} == {"another label"}


def test_a_sample_that_is_not_finite_is_quarantined_alone(demo_prepared, demo_cut, demo_dictionary):
    marked = demo_prepared[1].inputs.input_ids

    class Poisoned:
        def hidden_states(self, packed):
            states = demo_cut.hidden_states(packed).clone()
            for places in packed.places:
                if torch.equal(packed.input_ids[places], marked):
                    states[places[3], 4] = float("inf")
            return states

    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("l0", "cooccurrence"))
    rows = Scorer(Poisoned(), demo_dictionary, settings, None).score(demo_prepared[:3])
    assert [type(row) for row in rows] == [ScoredRow, QuarantineRow, ScoredRow]
    assert isinstance(rows[1], QuarantineRow)
    assert (rows[1].error, rows[1].stage, rows[1].sample_id) == ("NonFinite", "score", demo_prepared[1].sample_id)
    first_pass = WeightsPass(Poisoned(), demo_dictionary, settings, [s.source_row for s in demo_prepared[:3]], 4096)
    for sample in demo_prepared[:3]:
        first_pass.add(sample)
    assert first_pass.n_samples == 2


def test_batches_keep_the_budget_and_the_order(demo_prepared):
    for budget in (1, 500, 2000):
        batches = list(token_batches(demo_prepared, budget))
        assert [sample for batch in batches for sample in batch] == demo_prepared
        for batch in batches:
            assert len(batch) == 1 or sum(len(sample.inputs.input_ids) for sample in batch) <= budget


@pytest.fixture(scope="module")
def likelihoods(demo_builder) -> list[dict[str, float]]:
    """The metrics of likelihood of 24 samples, by transformers' own losses of each text alone."""
    whole = LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL, dtype=torch.float32).eval()

    def loss(ids: torch.Tensor, n: int, tensors) -> float:
        labels = ids.clone()
        labels[: len(ids) - n] = -100
        with torch.no_grad():
            return whole(input_ids=ids[None], labels=labels[None], **tensors).loss.item()

    found = []
    for _, sample in open_dataset(DatasetSpec(limit=24)).samples(range(24)):
        chosen, rejected = (
            demo_builder.build(sample.image, sample.question, response) for response in (sample.chosen, sample.rejected)
        )
        said = chosen.input_ids[-chosen.n_response :]
        assert demo_builder.decode(said) == sample.chosen
        with_image = loss(chosen.input_ids, chosen.n_response, chosen.tensors)
        alone = loss(torch.cat([torch.tensor([demo_builder.bos_token_id]), said]), len(said), {})
        other = loss(rejected.input_ids, rejected.n_response, rejected.tensors)
        found.append({"loglik": -with_image, "ifd": with_image / alone, "margin": other - with_image})
    return found


@pytest.mark.parametrize("text", ["prompt+chosen", "prompt", "prompt+rejected", "both"])
def test_metrics_of_likelihood_equal_the_whole_models_losses_and_change_nothing_else(
    demo_builder, demo_cut, demo_dictionary, likelihoods, text
):
    """In a batch of several, through a packed batch."""
    dataset = open_dataset(DatasetSpec(limit=24))
    names = ("cosine", "l0", "ifd", "margin", "loglik", "length")
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=names, text=text)
    prepared = list(prepare(dataset.samples(range(24)), demo_builder, settings.text, settings.likelihood_of))
    info = inspect_model(str(demo.MODEL))
    read = partial(info.family.load_whole(info, torch.float32, "cpu").read, hook_layer=demo.HOOK_LAYER)
    weights = weights_of(prepared, demo_cut, demo_dictionary, settings).weight
    scorer = Scorer(None, demo_dictionary, settings, weights, read)
    rows = [row for batch in token_batches(prepared, 2000) for row in scorer.score(carried(batch))]
    lower = Scorer(demo_cut, demo_dictionary, settings.model_copy(update={"metrics": ("cosine", "l0")}), weights)
    bare = [row for batch in token_batches(prepared, 2000) for row in lower.score(batch)]
    for row, below, expected in zip(rows, bare, likelihoods, strict=True):
        assert {name: row.scores[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert row.scores["length"] == row.n_text_tokens == below.n_text_tokens
        assert {name: row.scores[name] for name in below.scores} == below.scores


def test_a_likelihood_that_is_not_finite_quarantines_its_sample_alone(demo_prepared, demo_cut, demo_dictionary):
    def read(packed):
        likely = [torch.full((3,), float("-inf") if index == 1 else -1.0) for index in range(3)]
        return Reading(demo_cut.hidden_states(packed), likely)

    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, metrics=("loglik",))
    rows = Scorer(None, demo_dictionary, settings, None, read).score(demo_prepared[:3])
    assert [type(row) for row in rows] == [ScoredRow, QuarantineRow, ScoredRow]
    assert "loglik" in rows[1].reason


@pytest.mark.parametrize("budget", [1, 8192])
def test_both_is_the_two_texts_scored_apart(demo_builder, demo_cut, demo_dictionary, budget):
    """The columns of the chosen text, and those of the rejected one, are those of runs of their own."""
    dataset = open_dataset(DatasetSpec(limit=40))

    def rows(text, weights) -> list[ScoredRow]:
        settings = ScoringParameters(
            hook_layer=demo.HOOK_LAYER, metrics=("cosine", "l0", "cooccurrence", "length", "random"), text=text
        )
        prepared = list(prepare(dataset.samples(range(40)), demo_builder, text))
        scorer = Scorer(demo_cut, demo_dictionary, settings, weights)
        found = [row for batch in token_batches(prepared, budget) for row in scorer.score(carried(batch))]
        assert all(tuple(row.scores) == settings.columns for row in found)
        return found

    weights = torch.linspace(-1, 1, demo_dictionary.d_sae, dtype=torch.float64)
    both, chosen, rejected = (rows(text, weights) for text in ("both", "prompt+chosen", "prompt+rejected"))
    different = 0
    for row, one, other in zip(both, chosen, rejected, strict=True):
        assert (row.n_text_tokens, row.n_image_tokens) == (one.n_text_tokens, one.n_image_tokens)
        assert [feature for feature, _ in row.top_features] == [feature for feature, _ in one.top_features]
        for name, value in one.scores.items():
            assert row.scores[name] == pytest.approx(value, abs=1e-5) or noise_may_decide(row, name)
        for name in ("cosine", "l0", "cooccurrence"):
            assert row.scores[f"{name}_rejected"] == pytest.approx(other.scores[name], abs=1e-5) or noise_may_decide(
                row, name
            )
        assert not {"length_rejected", "random_rejected"} & set(row.scores)
        different += row.scores["cosine"] != row.scores["cosine_rejected"]
    assert different > 15


def test_samples_about_one_image_score_as_they_do_apart(demo_builder, demo_cut, demo_dictionary):
    """Questions and responses of all samples, about the image of the first: in one batch, and one by one."""
    found = [sample for _, sample in open_dataset(DatasetSpec(limit=12)).samples(range(12))]
    about_one = [(row, replace(sample, image=found[0].image)) for row, sample in enumerate(found)]
    prepared = [each for each in prepare(about_one, demo_builder, "both") if isinstance(each, Prepared)]
    settings = ScoringParameters(hook_layer=demo.HOOK_LAYER, text="both")
    scorer = Scorer(demo_cut, demo_dictionary, settings, torch.ones(demo_dictionary.d_sae, dtype=torch.float64))
    assert batch_tokens(prepared) < 0.55 * sum(map(len, prepared))
    together = scorer.score(batch_from_bytes(batch_to_bytes(prepared)))
    same_scores(together, [row for sample in prepared for row in scorer.score([sample])])


def test_both_is_refused_where_no_metric_reads_activations():
    with pytest.raises(ValueError, match="text both: none of random, ifd reads activations"):
        ScoringParameters(text="both", metrics=("random", "ifd"))
    assert ScoringParameters(text="both", metrics=("random", "l0")).columns == ("random", "l0", "l0_rejected")
