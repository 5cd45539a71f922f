"""Features of images and classes against plain NumPy over the whole model's activations."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate import demo
from curate.datasets.labelled import LabelledSpec, open_labelled
from curate.errors import ConfigurationError
from curate.interpret.features import features, most_images, plan
from curate.interpret.features_job import FeaturesJob
from tests import oracle
from tests.command import curate, refused

IMAGES = {"name": "demo-colours", "sample": 36, "seed": 4}


def listed(output: Path, **fields):
    job = FeaturesJob.model_validate({"output": str(output), "images": IMAGES, **fields})
    return features(plan(job), lambda done, total: None)


@pytest.fixture(scope="module")
def truth(demo_builder):
    """Labels, and by pooling [images, d_sae]: activations of image tokens, each image alone in the whole model."""
    images = open_labelled(LabelledSpec.model_validate(IMAGES))
    inputs = [demo_builder.build(images.decode(p), images.question(p), None) for p in range(len(images.labels))]
    hidden = oracle.full_hidden_states(demo.MODEL, inputs, demo.HOOK_LAYER)
    z = [oracle.encode(demo.SAE, h)[each.is_image.numpy()] for h, each in zip(hidden, inputs, strict=True)]
    sums, peaks = np.stack([each.sum(0) for each in z]), np.stack([each.max(0) for each in z])
    return np.array(images.labels), {"sum": sums, "max": peaks}


@pytest.mark.parametrize("clean", [12, 0.25, None])
def test_an_images_features_are_its_strongest_but_for_the_cleaned(truth, tmp_path, clean):
    _, pooled = truth
    record = listed(tmp_path / "out", poolings=["sum", "max"], clean=clean, top=6)
    # By default twice the largest class, of six images here.
    most = {12: 12, 0.25: 9, None: 12}[clean]
    assert record.most_images == most
    assert (record.images, record.left_out, len(record.pooled)) == (36, [], 2)
    for found in record.pooled:
        values = pooled[found.pooling]
        fires_on = (values > 0).sum(0)
        assert found.cleaned == np.flatnonzero(fires_on > most).tolist()
        assert found.firing == (fires_on > 0).sum()
        kept = np.where(fires_on <= most, values, 0)
        for row, image in enumerate(found.images):
            best = np.sort(kept[row])[::-1][:6]
            assert [each.value for each in image.features] == pytest.approx(best[best > 0], rel=1e-4, abs=1e-3)
            for each in image.features:
                assert each.value == pytest.approx(kept[row, each.feature], rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("rank", ["mean", "difference"])
def test_a_classs_features_are_those_of_its_mean(truth, tmp_path, rank):
    labels, pooled = truth
    record = listed(tmp_path / "out", by_class=True, rank=rank, top=5)
    (found,) = record.pooled
    values = np.where((pooled["sum"] > 0).sum(0) <= record.most_images, pooled["sum"], 0)
    assert found.images == []
    assert [each.label for each in found.classes] == ["red", "green", "blue", "yellow", "purple", "cyan"]
    for label, of_class in enumerate(found.classes):
        own = labels == label
        mean, elsewhere = values[own].mean(0), values[~own].mean(0)
        by = mean if rank == "mean" else mean - elsewhere
        assert of_class.images == own.sum() == 6
        order = [each.feature for each in of_class.features]
        assert by[order] == pytest.approx(np.sort(by)[::-1][:5], rel=1e-4, abs=1e-3)
        for each in of_class.features:
            f = each.feature
            assert (each.mean, each.elsewhere) == pytest.approx((mean[f], elsewhere[f]), rel=1e-4, abs=1e-3)
            fires = values[:, f] > 0
            assert (each.share, each.share_elsewhere) == pytest.approx((fires[own].mean(), fires[~own].mean()))
            strongest = np.flatnonzero(own)[np.argsort(-values[own, f], kind="stable")]
            assert each.images == [f"{place:08d}" for place in strongest[:5] if values[place, f] > 0]


def test_counts_and_shares_clean_alike():
    labels = np.repeat(np.arange(100), 100)
    assert most_images(None, labels) == 1000
    assert most_images(0.1, labels) == most_images(1000, labels) == 1000
    assert most_images(1, labels) == 10_000
    assert most_images(0.29, np.repeat(np.arange(4), 25)) == 29
    assert most_images(None, np.repeat(np.arange(4), 25)) == 50


def test_a_list_goes_on_and_refuses_another(tmp_path):
    once = listed(tmp_path / "out")
    before = (tmp_path / "out" / "features.json").read_bytes()
    assert listed(tmp_path / "out") == once
    assert (tmp_path / "out" / "features.json").read_bytes() == before
    with pytest.raises(ConfigurationError, match="with another top 10 ≠ 3"):
        listed(tmp_path / "out", top=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"holds thesis\.tex"):
        listed(tmp_path / "other")


def test_where_every_feature_is_dense_that_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match="--clean: every feature of demo that fires"):
        listed(tmp_path / "out", clean=0.0001)


def test_the_command_lists_classes_of_a_folder_and_draws_them(tmp_path):
    images = open_labelled(LabelledSpec(name="demo-shapes", sample=8))
    for place, label in enumerate(images.labels):
        folder = tmp_path / "set" / images.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        images.decode(place).save(folder / f"{place}.png")
    (tmp_path / "set" / "circle" / "broken.png").write_bytes(b"no image")
    options = ("--images", tmp_path / "set", "--model", "demo", "--by-class", "--output", tmp_path / "out")
    result = curate("features", *options, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record == json.loads((tmp_path / "out" / "features.json").read_text())
    (lost,) = record["left_out"]
    assert (lost["id"], lost["error"]) == ("circle/broken.png", "CorruptImage")
    assert "1 images left out, such as circle/broken.png" in result.stderr
    assert [each["label"] for each in record["pooled"][0]["classes"]] == ["circle", "cross", "square", "triangle"]
    picture = Image.open(tmp_path / "out" / "features-0.png")
    assert picture.width == 1300
    result = curate("features", *options)
    assert result.exit_code == 0, result.output
    assert "triangle  " in result.stdout


def test_the_command_draws_cards_of_a_run(scored_run, tmp_path):
    result = curate("features", scored_run, "--feature", "504,653", "-o", tmp_path / "cards")
    assert result.exit_code == 0, result.output
    assert "features are active on text and images" in result.stdout
    assert sorted(file.name for file in (tmp_path / "cards").iterdir()) == [
        "feature-504.png",
        "feature-653.png",
        "run-features.json",
    ]
    result = curate("features", scored_run, "-o", tmp_path / "cards")
    assert result.exit_code == 2
    assert "holds cards" in result.stderr
    result = curate("features", scored_run, "--feature", "3", "-o", tmp_path / "cards", "--overwrite")
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (tmp_path / "cards").iterdir()) == ["feature-3.png", "run-features.json"]
    (tmp_path / "cards" / "thesis.tex").write_text("mine")
    refused("holds thesis.tex", "features", scored_run, "-o", tmp_path / "cards", "--overwrite")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "name a run, or --images"),
        (("RUN", "--images", "digits"), "name a run, or --images"),
        (("RUN", "--feature", "768"), "--feature 768: there are features 0 to 767"),
        (("RUN", "--feature", "red"), "features are numbers"),
        (("RUN", "--clean", "0.3"), "--clean goes with --images, not with a run"),
        (("RUN", "--print-job"), "--print-job goes with --images, not with a run"),
        (("--images", "digits", "--rank", "difference"), "--rank goes with --by-class"),
        (("--images", "digits", "--feature", "3"), "--feature goes with a run"),
        (("--images", "./nowhere", "--model", "some/model"), "no SAE is named for some/model"),
        (("--images", "nowhere"), "--images: nowhere: neither a known set of labelled images"),
        (("--images", "./nowhere", "--model", "demo"), "neither a known set of labelled images"),
        (("--images", "digits", "--poolings", "median"), "--poolings: median is no pooling"),
        (("--images", "digits", "--clean", "2.5"), "--clean: 2.5 is neither a share"),
        (("--images", "digits", "--classes", "ten,zero"), "--classes: digits has no ten"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(scored_run, options, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(error, "features", *(scored_run if option == "RUN" else option for option in options))
