"""Explanations against the manifest, and against the oracle's plain NumPy."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from upath import UPath

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.datasets.demo import demo_row
from curate.errors import ConfigurationError, DataError
from curate.interpret.examples import strongest
from curate.interpret.explain import at_tokens, differs, explain_row, named, own_sample, where
from curate.interpret.explain import explain as explain_sample
from curate.interpret.lens import open_lens, open_run
from curate.interpret.run_features import example_heats, run_features
from curate.manifest.weights import read_weights, write_weights
from curate.models import ModelSpec
from curate.pipeline.job import ScoreJob
from curate.pipeline.score import score
from curate.scoring.parameters import ScoringParameters
from tests import oracle
from tests.command import curate, refused
from tests.conftest import SAMPLES, prepared

DELTA = 1.0


@pytest.fixture(scope="module")
def manifest(scored_run):
    return pq.read_table(scored_run / "manifest.parquet").to_pylist()


@pytest.fixture(scope="module")
def truth(demo_builder):
    """By source row: inputs, and the activations of every token, from the whole model in NumPy."""
    samples = prepared(DatasetSpec(limit=SAMPLES), demo_builder)
    hidden = oracle.full_hidden_states(demo.MODEL, [sample.inputs for sample in samples], demo.HOOK_LAYER)
    return {s.source_row: (s.inputs, oracle.encode(demo.SAE, h)) for s, h in zip(samples, hidden, strict=True)}


def near(z: np.ndarray) -> np.ndarray:
    """Where float noise may decide whether an activation is above delta."""
    return np.abs(z - DELTA) < 1e-4


@pytest.mark.parametrize("metric", ["cosine", "cooccurrence", "l0"])
def test_what_features_add_sums_to_the_manifests_score(run_lens, manifest, metric):
    assert len(manifest) == SAMPLES
    for row in manifest if metric == "cosine" else manifest[::5]:
        found = explain_row(run_lens, f"#{row['rank']}", metric).explanation
        assert sum(feature.contribution for feature in found.features) == pytest.approx(row[metric], abs=1e-6)
        assert found.score == pytest.approx(row[metric], abs=1e-6)
        assert (found.sample_id, found.source_row, found.manifest_score) == (
            row["sample_id"],
            row["source_row"],
            row[metric],
        )
        assert not differs(found)
        added = [feature.contribution for feature in found.features]
        assert added == sorted(added, reverse=True)
        assert 0 not in added


def test_features_and_the_tokens_they_fire_on_are_the_oracles(run_lens, manifest, truth):
    weight, _ = read_weights(run_lens.run / "weights")
    for row in manifest[::20]:
        inputs, z = truth[row["source_row"]]
        image = inputs.is_image.numpy()
        found = explain_row(run_lens, row["sample_id"][:12]).explanation
        unsure = set(np.flatnonzero(near(z).any(0)))
        expected = {f for f in oracle.cooccurring(z, image, DELTA) if float(weight[f]) != 0}
        assert {feature.feature for feature in found.features} - unsure == expected - unsure
        for feature in found.features:
            if feature.feature in unsure:
                continue
            column = z[:, feature.feature]
            assert [each.position for each in feature.tokens] == np.flatnonzero(column > DELTA).tolist()
            assert [each.activation for each in feature.tokens] == pytest.approx(column[column > DELTA], abs=1e-3)
            assert feature.text_peak == pytest.approx(column[~image].max(), abs=1e-3)
            assert feature.image_peak == pytest.approx(column[image].max(), abs=1e-3)
            assert feature.weight == feature.contribution == pytest.approx(float(weight[feature.feature]))
        on_text, on_image = (z[~image] > DELTA).any(0), (z[image] > DELTA).any(0)
        if not unsure:
            assert found.cross_modal == (on_text & on_image).sum()
            assert found.text_only == (on_text & ~on_image).sum()
            assert found.image_only == (on_image & ~on_text).sum()


def test_tokens_are_text_or_patches_or_what_separates_rows(run_lens, manifest):
    explained = explain_row(run_lens, manifest[0]["sample_id"])
    tokens, inputs = explained.explanation.tokens, explained.is_image
    width, height = explained.image.size
    assert [token.text is None for token in tokens] == inputs.tolist()
    assert explained.explanation.question in "".join(token.text or "" for token in tokens)
    boxes = [token.box for token in tokens if token.text is None]
    base, fine = boxes[:16], boxes[16:]
    assert None not in base
    # Each row of the tiles' patches ends with a separator.
    view = explained.patches.views[1]
    assert [place for place, box in enumerate(fine) if box is None] == [
        row * (view.columns + 1) + view.columns for row in range(view.rows)
    ]
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in base)
    assert area == pytest.approx(width * height)


def test_what_is_added_at_tokens_is_what_fires_there(run_lens, manifest):
    explained = explain_row(run_lens, manifest[3]["sample_id"])
    explanation = explained.explanation
    by_hand = defaultdict(float)
    for feature in explanation.features:
        for each in feature.tokens:
            by_hand[each.position] += feature.contribution
    assert at_tokens(explanation) == [by_hand[place] for place in range(len(explanation.tokens))]
    for column, feature in enumerate(explanation.features):
        fires = explained.activations[:, column].nonzero()[:, 0].tolist()
        assert fires == [each.position for each in feature.tokens]
        counts = [int(part.split(" (")[0].split()[-1]) for part in where(explained, feature).split("), ")]
        assert sum(counts) == len(fires)


def test_l0_is_the_sum_over_tokens_but_the_first_of_what_is_active_there(run_lens, manifest, truth):
    explanation = explain_row(run_lens, manifest[3]["sample_id"], "l0").explanation
    _, z = truth[manifest[3]["source_row"]]
    added, unsure = at_tokens(explanation), (np.abs(z) < 1e-4).any(1)
    assert added[0] == 0
    expected = (z > 0).sum(1) / (len(z) - 1)
    assert np.array(added)[1:][~unsure[1:]] == pytest.approx(expected[1:][~unsure[1:]], abs=2.1 / len(z))
    assert sum(added) == pytest.approx(explanation.score)


def test_the_strongest_tokens_are_those_of_all_data(run_lens, truth):
    """Of some features, over all 200 samples, in both modalities; near ties may stand in another order."""
    features = [504, 308, 653, 260, 93]
    found = strongest(run_lens, features, 5)
    assert found.unavailable is None
    for feature in features:
        for modality, is_text in (("text", True), ("image", False)):
            mine = [each for each in found.of[feature] if each.modality == modality]
            everywhere = [
                (z[place, feature], row, place)
                for row, (inputs, z) in truth.items()
                for place in np.flatnonzero((inputs.is_image.numpy() != is_text) & (z[:, feature] > 0))
            ]
            best = sorted(everywhere, reverse=True)[:5]
            assert [each.activation for each in mine] == pytest.approx([value for value, *_ in best], abs=1e-3)
            for each in mine:
                assert each.activation == pytest.approx(truth[each.source_row][1][each.position, feature], abs=1e-3)
                assert (each.token is not None) == is_text


def test_an_example_reads_as_its_text_does(run_lens):
    (example, *_) = [e for e in strongest(run_lens, [504], 5).of[504] if e.modality == "text"]
    row = demo_row(0, example.source_row)
    # The tokens before and after, of the template, the question and the chosen response.
    response = row[f"response_{row['overall_response']}"]
    said = f"[INST] \n{row['question']} [/INST] {response}</s>"
    assert f"{example.before}{example.token}{example.after}".replace("<s>", "").lstrip() in said.replace("  ", " ")


def test_the_lists_of_a_run_are_by_its_peaks(run_lens, truth):
    record, _ = run_features(run_lens, [], 4, 2, {})
    text = np.max([z[~inputs.is_image.numpy()].max(0) for inputs, z in truth.values()], axis=0)
    image = np.max([z[inputs.is_image.numpy()].max(0) for inputs, z in truth.values()], axis=0)
    sure = ~near(text) & ~near(image)
    expected = {
        "cross_modal": (text > DELTA) & (image > DELTA),
        "text_only": (text > DELTA) & (image <= DELTA),
        "image_only": (text <= DELTA) & (image > DELTA),
    }
    for name, where_true in expected.items():
        assert {f for f in getattr(record, name) if sure[f]} == set(np.flatnonzero(where_true & sure)), name
    listed = len(record.cross_modal) + len(record.text_only) + len(record.image_only) + record.inactive
    assert listed == len(text)
    weight, _ = read_weights(run_lens.run / "weights")
    assert [each.weight for each in record.features] == sorted(weight.tolist(), reverse=True)[:4]


def test_heats_are_the_activations_of_image_tokens(run_lens, truth):
    record, _ = run_features(run_lens, [653], 1, 3, {653: "a label"})
    (feature,) = record.features
    assert feature.label == "a label"
    rows = dict.fromkeys(each.source_row for each in feature.examples if each.modality == "image")
    heats = example_heats(run_lens, 653, feature.examples)
    assert len(heats) == len(rows)
    for row, heat in zip(rows, heats, strict=True):
        inputs, z = truth[row]
        np.testing.assert_allclose(heat.values[:, 0], z[inputs.is_image.numpy(), 653], atol=1e-3)


def test_labels_and_examples_are_named(run_lens):
    explained = explain_row(run_lens, "#1")
    first, second = (feature.feature for feature in explained.explanation.features[:2])
    examples = strongest(run_lens, [second], 1)
    found = named(explained, {first: "called so"}, examples.of).explanation.features
    assert (found[0].label, found[0].examples) == ("called so", [])
    assert (found[1].label, len(found[1].examples)) == (None, 2)


def test_an_image_of_ones_own_is_scored_as_a_sample_of_the_run_is(run_lens, manifest, tmp_path):
    row = manifest[5]
    (_, sample) = next(run_lens.dataset.samples([row["source_row"]]))
    sample.image.save(tmp_path / "own.png")
    lens, own = own_sample(run_lens, tmp_path / "own.png", sample.question, sample.chosen)
    assert explain_sample(lens, own, "cosine").explanation.score == pytest.approx(row["cosine"], abs=1e-9)
    lens, own = own_sample(run_lens, tmp_path / "own.png", sample.question, None)
    without = explain_sample(lens, own, "cosine").explanation
    assert without.response is None
    assert len(without.tokens) < row["n_text_tokens"] + row["n_image_tokens"]


def test_a_lens_of_no_run_counts_cooccurrences_without_weights(run_lens, manifest, tmp_path):
    row = manifest[5]
    (_, sample) = next(run_lens.dataset.samples([row["source_row"]]))
    lens = open_lens(ModelSpec(name="demo"), "demo", ScoringParameters(metrics=("cooccurrence",)), None)
    found = explain_sample(lens, sample, "cooccurrence").explanation
    assert found.score == row["cooccurrence"]
    assert {feature.weight for feature in found.features} == {None}
    with pytest.raises(ConfigurationError, match="needs feature weights"):
        explain_sample(lens, sample, "cosine")
    facts = read_weights(run_lens.run)[1].model_dump(exclude={"sha256", "features", "features_without_weight"})
    none = torch.zeros(768, dtype=torch.float64)
    for name, value, shown in (("sae_sha256", "0" * 64, "SAE hash"), ("hook_layer", 1, "hook layer 1 ≠ 2")):
        write_weights(UPath(tmp_path / "weights"), none, none > 0, {}, **{**facts, name: value})
        with pytest.raises(ConfigurationError, match=f"computed with another {shown}"):
            open_lens(ModelSpec(name="demo"), "demo", ScoringParameters(), str(tmp_path / "weights"))
    weighed = open_lens(ModelSpec(name="demo"), "demo", ScoringParameters(), str(run_lens.run))
    assert explain_sample(weighed, sample, "cosine").explanation.score == pytest.approx(row["cosine"], abs=1e-9)


@pytest.mark.parametrize(
    ("sample", "metric", "error"),
    [
        ("#0", None, "has no sample #0"),
        ("#201", None, "has no sample #201"),
        ("#best", None, "no rank"),
        ("#" + "9" * 30, None, "no rank"),
        ("zz", None, "has no sample zz"),
        ("", None, "name a sample, by its id"),
        ("#1", "random", "is no sum over features; there are: cosine, cooccurrence, l0"),
        ("#1", "coherence", "does not exist; there are"),
    ],
)
def test_what_cannot_be_explained_is_said(run_lens, sample, metric, error):
    with pytest.raises((DataError, ConfigurationError), match=error):
        explain_row(run_lens, sample, metric)


def test_changed_data_and_a_changed_model_are_refused(scored_run, tmp_path):
    run = UPath(shutil.copytree(scored_run, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    lens = open_run(run)
    other = open_dataset(DatasetSpec(limit=SAMPLES, seed=1))
    with pytest.raises(DataError, match="no longer what was scored"):
        explain_row(replace(lens, dataset=other), "#1")
    assert "no longer what was scored" in str(strongest(replace(lens, dataset=other), [504], 3).unavailable)
    facts = read_weights(run)[1].model_dump(exclude={"sha256", "features", "features_without_weight"})
    weight, _ = read_weights(run)
    # As they were before they said where tokens are.
    write_weights(run / "weights", weight, weight != 0, {}, **facts)
    assert "do not say where tokens are" in str(strongest(open_run(run), [504], 3).unavailable)
    with pytest.raises(ConfigurationError, match="do not say where tokens are"):
        run_features(open_run(run), [], 3, 3, {})
    record["hashes"]["model"] = "0" * 64
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(ConfigurationError, match="is no longer what "):
        open_run(run)


def test_a_quarantined_sample_says_why(tmp_path_factory, whole_with_quarantine):
    lens = open_run(whole_with_quarantine)
    lost = pq.read_table(whole_with_quarantine / "quarantine.parquet").to_pylist()
    (row,) = [row for row in lost if row["sample_id"]]
    with pytest.raises(DataError, match=f"could not be scored: {row['error']}"):
        explain_row(lens, row["sample_id"])


@pytest.fixture(scope="module")
def whole_with_quarantine(tmp_path_factory):
    """A run of two tables' rows, one of them with an image that cannot be read; without feature weights."""
    folder = tmp_path_factory.mktemp("broken")
    rows = []
    for index in range(4):
        row = demo_row(3, index)
        image = row["image"]["bytes"] if index else b"no image"  # type: ignore[index]
        rows.append({"question": row["question"], "image": image, "chosen": "One.", "rejected": "Two."})
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    job = ScoreJob.model_validate(
        {
            "output": str(folder / "run"),
            "dataset": {"name": str(folder / "data.parquet")},
            "model": {"name": "demo"},
            "parameters": {"metrics": ["random", "l0"]},
            "max_error_rate": 0.5,
        }
    )
    score(job, lambda step: None, lambda plan, rows: None)
    return UPath(folder / "run")


def test_a_run_without_weights_is_explained_by_l0_and_names_no_examples(whole_with_quarantine):
    lens = open_run(whole_with_quarantine)
    explanation = explain_row(lens, "#1").explanation
    assert explanation.metric == "l0"
    assert sum(each.contribution for each in explanation.features) == pytest.approx(explanation.manifest_score)
    assert "has no feature weights" in str(strongest(lens, [1], 3).unavailable)
    with pytest.raises(ConfigurationError, match="has no feature weights"):
        run_features(lens, [], 3, 3, {})


def test_the_command_prints_json_a_table_and_a_picture(scored_run, tmp_path):
    result = curate("explain", scored_run, "#1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert sum(each["contribution"] for each in found["features"]) == pytest.approx(found["manifest_score"], abs=1e-6)
    assert set(found["features"][0]) >= {"feature", "weight", "contribution", "label", "tokens"}
    label = {str(found["features"][0]["feature"]): "[bold]what \x1b[31m it is"}
    (tmp_path / "labels.json").write_text(json.dumps(label))
    picture = tmp_path / "why.png"
    result = curate("explain", scored_run, "#1", "--labels", tmp_path / "labels.json", "-o", picture, "--top", 2)
    assert result.exit_code == 0, result.output
    assert "[bold]what" in result.stdout
    assert "\x1b" not in result.stdout
    assert f"{len(found['features']) - 2} more features add" in result.stdout
    assert Image.open(picture).size[0] == 1500


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "name a run and a sample of it, or an --image"),
        (("RUN",), "name a run and a sample of it, or an --image"),
        (("RUN", "#1", "--image", "x.png"), "name a run and a sample of it, or an --image"),
        (("RUN", "#1", "--question", "What?"), "--question and --response go with --image"),
        (("RUN", "#1", "--model", "demo"), "--model goes with an --image without a run"),
        (("RUN", "#1", "--allow-model-mismatch"), "--allow-model-mismatch goes with an --image without a run"),
        (("RUN", "#1", "-o", "why.pdf"), "it can be a .png or an .svg"),
        (("--image", "x.png", "--question", "What?"), "or a --model"),
        (("--image", "x.png", "--model", "demo"), "name a --question"),
        (("--image", "x.png", "--question", "What?", "--model", "demo"), "--image x.png: no image file can be read"),
        (("--image", "x.png", "--question", "What?", "--model", "some/model"), "no SAE is named for some/model"),
        (("RUN", "#1", "--labels", "x.json"), "--labels x.json cannot be read"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(scored_run, options, error):
    refused(error, "explain", *(scored_run if option == "RUN" else option for option in options))
