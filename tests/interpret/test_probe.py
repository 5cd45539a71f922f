"""Probes against scikit-learn run by hand on the export; leaks; work that is cut off; wrong input; the command."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from pydantic import ValidationError
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from typer.testing import CliRunner

from curate.cli.main import app
from curate.datasets.labelled import LabelledImages, LabelledSpec, open_labelled
from curate.errors import ConfigurationError, DataError
from curate.interpret import pooling
from curate.interpret.probe.job import ProbeJob, Representation
from curate.interpret.probe.plan import check_shares, plan
from curate.interpret.probe.study import FEATURES, FITS, RECORD, SHARDS, ProbeRecord, _fit, probe, splits
from curate.interpret.probe.study import Task as FitTask
from curate.jobs.files import read_job, write_job
from curate.report.probe import draw_probe

SMALL: dict[str, Any] = {
    "images": {"name": "digits", "sample": 60, "classes": ("zero", "one", "three", "eight")},
    "poolings": ("sum", "top-2"),
    "binarise": (0.0, 1.0),
    "train_shares": (0.2, 0.5),
    "feature_counts": (2, 10, 5000),
    "repeats": 2,
}
DIGITS = open_labelled(LabelledSpec(name="digits"))
N_FITS = (6 + 1) * 2 * (2 + 2)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Images are small, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(folder: Path, **changes: Any) -> ProbeJob:
    return ProbeJob.model_validate({**SMALL, "output": str(folder), **changes})


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def probed(a_job: ProbeJob, overwrite: bool = False) -> ProbeRecord:
    return probe(plan(a_job), silent, silent, overwrite)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("probe") / "study"
    return SimpleNamespace(folder=folder, record=probed(job(folder)), export=load_file(folder / FEATURES))


def macro_f1(truth: np.ndarray, said: np.ndarray) -> float:
    """By its definition: the mean over classes of the harmonic mean of precision and recall."""
    each = []
    for label in np.unique(truth):
        hits = int(((truth == label) & (said == label)).sum())
        each.append(2 * hits / (int((truth == label).sum()) + int((said == label).sum())))
    return float(np.mean(each))


def by_hand(export: dict[str, np.ndarray], of: Representation, share: float, n_features: int, repeat: int):
    """Macro F1 and accuracy of scikit-learn's regression on the export, with all before it written out in NumPy."""
    labels, learned = export["labels"], np.zeros(len(export["labels"]), dtype=bool)
    learned[export[f"train/{share}/{repeat}"]] = True
    if of.sae is None:
        x = export["tower"].astype(float)
    else:
        parts = [export[f"{of.sae}/{of.pooling}/{part}"] for part in ("data", "indices", "indptr")]
        x = csr_matrix(tuple(parts), shape=tuple(export[f"{of.sae}/{of.pooling}/shape"])).toarray().astype(float)
        if of.threshold is not None:
            x = np.where(x > of.threshold, 1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # features that never fire
        strength = np.nan_to_num(f_classif(x[learned], labels[learned])[0], nan=-1.0)
    if n_features < x.shape[1]:
        x = x[:, np.sort(np.argsort(strength, kind="stable")[-n_features:])]
    if of.sae is None:
        mean, deviation = x[learned].mean(0), x[learned].std(0)
        x = (x - mean) / np.where(deviation == 0, 1, deviation)
    else:
        highest = np.abs(x[learned]).max(0)
        x = x / np.where(highest == 0, 1, highest)
    said = LogisticRegression(max_iter=1000).fit(x[learned], labels[learned]).predict(x[~learned])
    return macro_f1(labels[~learned], said), float((said == labels[~learned]).mean())


def test_figures_are_those_of_scikit_learn_run_by_hand_on_the_export(study):
    record, checked = study.record, 0
    for figure in record.figures:
        for repeat in range(2):
            expected = by_hand(study.export, figure.representation, figure.train_share, figure.n_features, repeat)
            assert figure.macro_f1.values[repeat] == pytest.approx(expected[0], abs=1e-12), figure
            assert figure.accuracy.values[repeat] == pytest.approx(expected[1], abs=1e-12), figure
            checked += 1
        for found in (figure.macro_f1, figure.accuracy):
            assert found.mean == pytest.approx(sum(found.values) / 2)
            assert found.standard_error == pytest.approx(abs(found.values[0] - found.values[1]) / 2)
        assert figure.n_train == round(60 * figure.train_share)
        assert figure.n_test == 60 - figure.n_train
    assert checked == N_FITS
    # Better than chance, or the equality above says little.
    best = max(figure.macro_f1.mean for figure in record.figures if figure.representation.sae)
    assert best > 0.8 > record.chance == 0.25


def test_the_record_has_each_representation_share_and_count(study):
    labels = [each.label for each in study.record.representations]
    assert labels == ["sum", "sum > 0", "sum > 1", "top-2", "top-2 > 0", "top-2 > 1", "vision tower"]
    for each in study.record.representations:
        width = 64 if each.sae is None else 768
        assert each.hook_layer == (None if each.sae is None else 2)
        assert [figure.train_share for figure in study.record.curve(each)] == [0.2, 0.5]
        assert [figure.n_features for figure in study.record.by_count(each)] == [2, 10, width]
    assert study.record.classes == {"zero": 15, "one": 15, "three": 15, "eight": 15}
    assert study.record.images == 60
    assert study.record.left_out == []
    assert sorted(file.name for file in study.folder.iterdir()) == [
        ".lock", FEATURES, FITS, "inputs.json", RECORD
    ]  # fmt: skip
    assert ProbeRecord.model_validate_json((study.folder / RECORD).read_text()) == study.record


def test_the_export_has_labels_and_splits_that_are_stratified(study):
    images = open_labelled(LabelledSpec.model_validate(SMALL["images"]))
    assert study.export["places"].tolist() == list(range(60))
    assert study.export["labels"].tolist() == list(images.labels)
    for share in (0.2, 0.5):
        first, second = (study.export[f"train/{share}/{repeat}"] for repeat in range(2))
        assert first.tolist() != second.tolist()
        for rows in (first, second):
            of_class = np.bincount(study.export["labels"][rows])
            assert of_class.sum() == round(60 * share)
            assert of_class.max() - of_class.min() <= 1
            assert len(set(rows.tolist())) == round(60 * share)


def some_images(counts: list[int]) -> LabelledImages:
    names = tuple(f"class {label}" for label in range(len(counts)))
    labels = tuple(label for label, count in enumerate(counts) for _ in range(count))
    return replace(DIGITS, name="some", classes=names, labels=labels)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0.02, 0.98))
@settings(max_examples=200, deadline=None)
def test_a_split_that_is_let_through_has_every_class_on_both_sides(counts, share):
    images = some_images(counts)
    try:
        check_shares(images.labels, images, (share,))
    except ConfigurationError:
        # No split by this share gives every class its part of each side.
        n, side = sum(counts), int(share * sum(counts))
        assert any(count * side < n or count * (n - side) < n for count in counts)
        return
    labels = np.array(images.labels)
    for rows in splits(job(Path("x"), repeats=2), labels, share):
        learned = np.bincount(labels[rows], minlength=len(counts))
        assert (learned >= 1).all()
        assert (np.array(counts) - learned >= 1).all()


def test_which_class_has_too_few_images_is_said_before_any_work(tmp_path):
    with pytest.raises(ConfigurationError, match=r"--train-shares 0.02: of digits's class zero, with 15 of 60 images"):
        plan(job(tmp_path / "x", train_shares=(0.5, 0.02)))
    images = some_images([50, 3])
    with pytest.raises(ConfigurationError, match="class class 1, with 3 of 53 images, that leaves none to judge by"):
        check_shares(images.labels, images, (0.9,))
    check_shares(images.labels, images, (0.5,))


def task(**changes: Any) -> FitTask:
    of = Representation(sae="s", hook_layer=1, pooling="sum")
    return FitTask.model_validate({"representation": of, "train_share": 0.5, "n_features": 1, "repeat": 0, **changes})


def test_features_are_chosen_by_what_is_learned_from_alone():
    """One feature tells the classes where it is learned from, and lies elsewhere; the other the other way around."""
    labels = np.tile([0, 1], 40)
    rows = np.arange(40)
    learned = np.isin(np.arange(80), rows)
    noise = np.random.default_rng(0).normal(size=(80, 2)) * 0.1
    there, elsewhere = np.where(learned, labels, 1 - labels), np.where(learned, 0.5, labels)
    x = np.abs(np.stack([there, elsewhere], 1) + noise)
    assert _fit(x, labels, rows, task(), job(Path("x"))).accuracy == 0.0


def test_scales_are_those_of_what_is_learned_from():
    """Were the others' huge values in the scale, the classes would be squeezed together."""
    labels = np.tile([0, 1], 40)
    x = np.where(np.arange(80) < 40, labels, labels * 1e6)[:, None].astype(float)
    found = _fit(x, labels, np.arange(40), task(), job(Path("x"), inverse_regularisation=1.0))
    assert found.accuracy == 1.0
    assert found.converged


def test_classifiers_that_do_not_converge_are_counted_and_say_no_more(study, tmp_path, recwarn):
    record = probed(job(tmp_path / "x", max_iter=1, binarise=(), poolings=("sum",), feature_counts=()))
    assert [figure.not_converged for figure in record.figures] == [2] * 4
    assert not [each for each in recwarn if "onverge" in str(each.message)]
    assert sum(figure.not_converged for figure in study.record.figures) == 0


def stopped_at(n: int) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done == n:
            raise KeyboardInterrupt

    return report


def test_cut_off_anywhere_it_goes_on_to_the_same_bytes(study, tmp_path, monkeypatch):
    monkeypatch.setattr(pooling, "SHARD_IMAGES", 32)
    folder = tmp_path / "cut"
    the_plan = plan(job(folder))
    with pytest.raises(KeyboardInterrupt, match="keeps what was done; the same command goes on"):
        probe(the_plan, stopped_at(40), silent)
    assert sorted(file.name for file in (folder / SHARDS).iterdir()) == ["00000.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        probe(the_plan, silent, stopped_at(20))
    assert not (folder / SHARDS).exists()
    with (folder / FITS).open("a") as file:
        file.write('{"task": {"repr')  # as a process that was killed leaves it
    (folder / SHARDS).mkdir()  # and here before it could tidy up
    first: list[int] = []

    def no_more_images(done: int, total: int) -> None:
        raise AssertionError("the images were read already")

    probe(the_plan, no_more_images, lambda done, total: first.append(done))
    assert first == list(range(20, N_FITS + 1))
    for name in (FEATURES, FITS):
        assert (folder / name).read_bytes() == (study.folder / name).read_bytes()
    of_cut, of_whole = ((each / RECORD).read_text() for each in (folder, study.folder))
    assert of_cut.replace(str(folder), "x") == of_whole.replace(str(study.folder), "x")


def test_another_probe_needs_another_folder_or_overwrite(study, tmp_path):
    folder = tmp_path / "x"
    few = {"binarise": (), "poolings": ("max",), "feature_counts": (), "train_shares": (0.5,)}
    few |= {"images": {"name": "digits", "sample": 10, "classes": ("zero", "one")}}
    probed(job(folder, **few))
    for change, name in (
        ({"seed": 1}, "seed 0 ≠ 1"),
        ({"tokens": "all"}, "tokens image ≠ all"),
        (few | {"repeats": 3}, "repeats 2 ≠ 3"),
    ):
        with pytest.raises(ConfigurationError, match=name):
            probed(job(folder, **few | change))
    record = probed(job(folder, **few | {"repeats": 1}), overwrite=True)
    assert [figure.macro_f1.standard_error for figure in record.figures] == [None, None]
    (folder / FITS).write_text(json.dumps(json.loads((study.folder / FITS).read_text().splitlines()[0])) + "\n")
    with pytest.raises(DataError, match="other classifiers"):
        probed(job(folder, **few | {"repeats": 1}))
    (folder / "mine.txt").write_text("")
    with pytest.raises(ConfigurationError, match=r"holds mine\.txt"):
        probed(job(folder, **few), overwrite=True)


@pytest.mark.slow
def test_more_processes_say_the_same(study, tmp_path):
    probed(job(tmp_path / "x", workers=2))
    assert (tmp_path / "x" / FITS).read_bytes() == (study.folder / FITS).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poolings": ("mean",)}, "mean is no pooling"),
        ({"poolings": ()}, "at least 1"),
        ({"poolings": ("sum", "sum")}, "sum is named twice"),
        ({"saes": ("demo", "demo")}, "demo is named twice"),
        ({"binarise": (-0.1,)}, "greater than or equal to 0"),
        ({"binarise": (float("nan"),)}, "greater than or equal|finite"),
        ({"train_shares": (1.0,)}, "less than 1"),
        ({"train_shares": (0.0,)}, "greater than 0"),
        ({"feature_counts": (0,)}, "greater than or equal to 1"),
        ({"repeats": 0}, "greater than or equal to 1"),
        ({"model": {"name": "/models/x"}}, "no SAE is named for /models/x"),
        ({"output": "s3://bucket/x"}, "written on this machine"),
        ({"thresholds": (0.0,)}, "Extra inputs"),
    ],
)
def test_a_job_that_cannot_work_is_none(tmp_path, change, message):
    with pytest.raises(ValidationError, match=message):
        job(tmp_path, **change)


def test_a_job_is_written_and_read_again(tmp_path):
    given_job = job(tmp_path / "x", workers=3)
    (tmp_path / "job.yaml").write_text(write_job(given_job))
    assert read_job(tmp_path / "job.yaml") == given_job
    assert given_job.saes == ("demo",)
    assert "workers" not in given_job.parameters()
    assert set(given_job.parameters()) == {
        "poolings", "tokens", "binarise", "train_shares", "feature_counts", "repeats", "seed",
        "inverse_regularisation", "max_iter",
    }  # fmt: skip


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of the demo's shapes, of which one is damaged."""
    images = open_labelled(LabelledSpec(name="demo-shapes", sample=48))
    for place, label in enumerate(images.labels):
        (tmp_path / "photos" / images.classes[label]).mkdir(parents=True, exist_ok=True)
        images.decode(place).save(tmp_path / "photos" / images.classes[label] / f"{place}.png")
    file = next((tmp_path / "photos" / "cross").iterdir())
    file.write_bytes(file.read_bytes()[:60])
    return tmp_path / "photos"


def curate(*args: Any) -> Any:
    return CliRunner().invoke(app, ["probe", *map(str, args)])


def test_the_command_prints_a_table_writes_pictures_and_lists_what_it_left_out(photos, tmp_path):
    output = tmp_path / "out"
    given = ("--images", photos, "--model", "demo", "--sae", "demo", "-o", output, "--poolings", "max,top-1")
    given += ("--binarise", "none", "--train-shares", "0.25,0.5", "--feature-counts", "5", "--repeats", 1)
    result = curate(*given)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    record = ProbeRecord.model_validate_json((output / RECORD).read_text())
    for each in record.representations:
        shown = [f"{figure.macro_f1.mean:.3f}" for figure in record.curve(each)]
        assert [*each.label.split(), *shown] in rows
    assert rows[-4][:2] == ["vision", "tower"]
    assert "47 images of 4 classes: chance is 0.250" in result.stdout
    assert "1 images left out, such as cross/" in result.stderr
    assert record.left_out[0].error == "CorruptImage"
    assert sum(record.classes.values()) == record.images == 47
    with Image.open(output / "probe.png") as picture:
        assert picture.width > picture.height > 400
    assert b"</svg>" in (output / "probe.svg").read_bytes()
    again = curate(*given, "--json")
    assert json.loads(again.stdout) == json.loads((output / RECORD).read_text())


def test_too_many_left_out_is_said_with_the_class(photos, tmp_path):
    for file in list((photos / "square").iterdir())[:-1]:
        file.write_bytes(b"")
    given = ("--images", photos, "--model", "demo", "--sae", "demo", "-o", tmp_path / "out", "--train-shares", "0.5")
    result = curate(*given)
    assert result.exit_code == 2
    assert "of photos's class square, with 1 of 36 images" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--poolings", "mean"], "--poolings: mean is no pooling"),
        (["--binarise", "x"], "--binarise: Input should be a valid number"),
        (["--images", "/photos", "--model", "some/model"], "--sae: no SAE is named for some/model"),
        (["--images", "digits", "--classes", "one,eleven"], "digits has no eleven"),
        (["--hook-layer", "1"], "was trained on layer 2"),
        (["--sample", "20"], "of demo-shapes's class circle, with 5 of 20 images, that leaves none to learn from"),
    ],
)
def test_wrong_options_are_one_line_before_any_work(tmp_path, given, message):
    result = curate("-o", tmp_path / "out", *given)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_picture_shows_each_sae_and_one_split_without_bands(study, tmp_path):
    figures = [
        figure.model_copy(
            update={"representation": figure.representation.model_copy(update={"sae": sae, "hook_layer": layer})}
        )
        for sae, layer in (("a", 1), ("b", 2))
        for figure in study.record.figures
        if figure.representation.sae
    ]
    figures += [figure for figure in study.record.figures if figure.representation.sae is None]
    draw_probe(tmp_path / "two", study.record.model_copy(update={"figures": figures}))
    text = (tmp_path / "two.svg").read_text()
    assert all(said in text for said in ("a, layer 1: ", "b, layer 2: ", "vision tower", "chance", "over 2 splits"))


def test_train_test_split_is_what_splits(study):
    labels = study.export["labels"]
    expected, _ = train_test_split(np.arange(60), train_size=0.5, stratify=labels, random_state=1)
    assert study.export["train/0.5/1"].tolist() == sorted(expected)
