"""The study of patches: its rows against the whole model run by hand, its figures, and how it goes on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from transformers import LlavaNextForConditionalGeneration
from typer.testing import CliRunner

from curate import demo
from curate.cli.main import app
from curate.datasets.labelled import LabelledSpec, open_labelled
from curate.errors import ConfigurationError, DataError, NonFinite
from curate.interpret.patches.classify import guess
from curate.interpret.patches.job import METHODS, Method, PatchesJob
from curate.interpret.patches.plan import plan
from curate.interpret.patches.results import ImageRow, found, mcnemar
from curate.interpret.patches.study import read_rows, study_patches
from curate.models.packing import pack
from curate.report.patches import checkered, chosen
from tests import oracle

MEAN = (123, 117, 104)  # CLIP's, of 255
SAMPLE = 8
MADE = (
    "rows.jsonl",
    "patches.json",
    "patches.png",
    "patches.svg",
    "gallery.png",
    "weights/feature_weights.safetensors",
)


def run(*arguments: object):
    return CliRunner().invoke(app, ["patches", *map(str, arguments)])


def job(output: Path, **given) -> PatchesJob:
    return PatchesJob.model_validate({"output": str(output), "images": {"sample": SAMPLE}, **given})


def silent(*_: object) -> None:
    """A report to nobody."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of the demo by the command."""
    output = tmp_path_factory.mktemp("patches") / "study"
    result = run("--sample", SAMPLE, "--ratios", "0.25,0.5", "--gallery", 3, "-o", output)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture(scope="module")
def whole_model():
    return LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL, dtype=torch.float32).eval()


def masked_by_hand(image: Image.Image, kept: list[int], colour) -> Image.Image:
    """The demo model's first view squeezes an image into a square of 4 × 4 patches."""
    found = image.copy()
    for x in range(image.width):
        for y in range(image.height):
            if (2 * y + 1) * 4 // (2 * image.height) * 4 + (2 * x + 1) * 4 // (2 * image.width) not in kept:
                found.putpixel((x, y), colour)
    return found


def scores_by_hand(model, builder, image, question, answers) -> list[float]:
    """Each answer run by itself through transformers: the mean log-probability of the tokens after the prompt."""
    n_prompt = len(builder.build_prompt(image, question).input_ids)
    scores = []
    for answer in answers:
        inputs = builder.build(image, question, answer)
        with torch.no_grad():
            logits = model(
                input_ids=inputs.input_ids[None],
                pixel_values=inputs.tensors["pixel_values"][None],
                image_sizes=inputs.tensors["image_sizes"],
            ).logits[0]
        said = logits.double().log_softmax(-1)[n_prompt - 1 : -1]
        scores.append(float(said.gather(1, inputs.input_ids[n_prompt:, None]).mean()))
    return scores


def test_rows_are_what_the_model_says_of_images_masked_by_hand(study, whole_model, demo_builder):
    images = open_labelled(LabelledSpec(sample=SAMPLE))
    rows = list(read_rows(study / "rows.jsonl"))
    assert [(row.id, row.label) for row in rows] == list(zip(images.ids, images.labels, strict=True))
    for place in (0, 6):
        image, row, question = images.decode(place), rows[place], images.question(place)
        answers = [images.answer(place, label) for label in range(4)]
        assert [(each.method, each.ratio) for each in row.outcomes] == [
            (None, 1.0),
            *((method, ratio) for method in METHODS for ratio in (0.5, 0.25)),
        ]
        for each in row.outcomes[place % 4 :: 2]:  # whole and at 25%, or at 50%
            seen = image
            if each.method is not None:
                kept = row.ranked[each.method][: {0.5: 8, 0.25: 4}[each.ratio]]
                seen = masked_by_hand(image, kept, MEAN)
            expected = scores_by_hand(whole_model, demo_builder, seen, question, answers)
            assert each.right == pytest.approx(expected[row.label], abs=1e-4), each
            assert each.top == pytest.approx(max(expected), abs=1e-4)
            assert each.predicted == int(np.argmax(expected))


def test_patches_are_ranked_by_what_their_tokens_do(study, demo_builder, demo_cut):
    """The highest are kept: by the whole model's activations in NumPy, without the weights that ties may hang on."""
    images = open_labelled(LabelledSpec(sample=SAMPLE))
    for place, row in enumerate(read_rows(study / "rows.jsonl")):
        image = images.decode(place)
        inputs = demo_builder.build(image, images.question(place), None)
        hidden = demo_cut.hidden_states(pack([inputs])).double().numpy()
        z, is_image = oracle.encode(demo.SAE, hidden), inputs.is_image.numpy()
        patches = demo_builder.patches(image)
        both = oracle.cooccurring(z, is_image, 1.0)
        counts: dict[Method, np.ndarray] = {
            "l0": (z > 0).sum(1),
            "l1": z.sum(1),
            "cooccurrence": (z[:, both] > 1.0).sum(1),
        }
        for method, of_token in counts.items():
            scores = patches.on_grid(torch.from_numpy(of_token[is_image].astype(float))[:, None]).flatten().numpy()
            ranked = row.ranked[method]
            assert sorted(ranked) == list(range(16))
            assert bool((np.diff(scores[ranked]) <= 1e-4).all()), method
        assert sorted(row.ranked["random"]) == list(range(16))


def test_the_record_says_what_the_rows_hold(study):
    record = json.loads((study / "patches.json").read_text())
    rows = [json.loads(line) for line in (study / "rows.jsonl").read_text().splitlines()]
    assert (record["images"], record["left_out"]) == (SAMPLE, [])
    assert record["weights"]["source"] == "the images of this study"
    assert record["weights"]["features_without_weight"] > 0
    outcomes = {(each["method"], each["ratio"]): [] for each in record["found"]}
    for row in rows:
        for each in row["outcomes"]:
            outcomes[each["method"], each["ratio"]].append((each["predicted"] == row["label"], each["right"]))
    whole = np.array([right for _, right in outcomes[None, 1.0]])
    for each in record["found"]:
        is_right, right = map(np.array, zip(*outcomes[each["method"], each["ratio"]], strict=True))
        interval = binomtest(int(is_right.sum()), SAMPLE).proportion_ci(method="wilson")
        assert list(each["accuracy"].values()) == pytest.approx([is_right.mean(), *interval], abs=1e-9)
        assert each["log_probability"] == pytest.approx(right.mean())
        if each["method"] is None:
            assert each["change"] is each["versus_random"] is None
            continue
        error = (right - whole).std(ddof=1) / SAMPLE**0.5
        mean = (right - whole).mean()
        assert list(each["change"].values()) == pytest.approx(
            [mean, mean - 1.96 * error, mean + 1.96 * error], abs=1e-4
        )
        chance = np.array([hit for hit, _ in outcomes["random", each["ratio"]]])
        if each["method"] == "random":
            assert each["versus_random"] is None
        else:
            found = each["versus_random"]
            assert found["difference"]["value"] == pytest.approx(is_right.mean() - chance.mean())
            assert (found["only_method"], found["only_random"]) == (
                (is_right & ~chance).sum(),
                (chance & ~is_right).sum(),
            )


@pytest.mark.parametrize(("only", "other"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (0, 40), (600, 500)])
def test_mcnemars_p_is_that_of_a_fair_coin(only, other):
    expected = binomtest(only, only + other).pvalue if only + other else 1.0
    assert mcnemar(only, other) == pytest.approx(expected, rel=1e-9)


def test_the_likeliest_answer_is_the_guess_and_the_first_of_equals():
    short, long = torch.tensor([-1.0]), torch.tensor([-0.6, -0.6])
    assert guess([short, long], "mean").predicted == 1
    assert guess([short, long], "sum") == (0, [pytest.approx(-1.0), pytest.approx(-1.2)])
    assert guess([long, short, short], "sum").predicted == 1
    with pytest.raises(NonFinite, match="log-probabilities"):
        guess([short, torch.tensor([float("nan")])], "mean")


def outcomes(*predicted: int):
    conditions = [(None, 1.0), ("l0", 0.5), ("random", 0.5)]
    return [
        {"method": method, "ratio": ratio, "predicted": each, "right": -1.0, "top": -0.5}
        for (method, ratio), each in zip(conditions, predicted, strict=True)
    ]


def test_figures_of_one_image_and_of_methods_without_random_have_no_more_than_they_can():
    row = {"id": "a", "label": 1, "outcomes": outcomes(1, 1, 0)}
    figures = found([ImageRow.model_validate(row)])
    assert [each.accuracy.value for each in figures] == [1, 1, 0]
    assert all(each.change is None for each in figures)
    alone = found([ImageRow.model_validate({**row, "outcomes": outcomes(1, 1, 0)[:2]})] * 2)
    assert alone[1].versus_random is None
    assert alone[1].change is not None


def test_cut_off_it_goes_on_to_the_same_files(study, tmp_path):
    """Killed while a line was written; then, by the same command, a bar and a record as if nothing had been."""
    output = tmp_path / "study"
    shutil.copytree(study, output)
    lines = (output / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (output / "rows.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])
    for name in ("patches.json", "patches.png", "patches.svg", "gallery.png"):
        (output / name).unlink()
    again = run("--sample", SAMPLE, "--ratios", "0.25,0.5", "--gallery", 3, "-o", output)
    assert again.exit_code == 0, again.output
    for name in MADE:
        # Of the record, but for where it lies.
        was, now = ((folder / name).read_bytes().replace(str(folder).encode(), b"") for folder in (study, output))
        assert now == was, name


def test_an_interrupted_study_says_so_and_keeps_what_was_done(tmp_path):
    the_plan = plan(job(tmp_path / "study", methods=["l0"], ratios=[0.5]))

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("patches", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="keeps what was done; the same command goes on"):
        study_patches(the_plan, stop)
    before = (tmp_path / "study" / "rows.jsonl").read_text()
    assert before.count("\n") == 3
    assert not (tmp_path / "study" / "patches.json").exists()
    record = study_patches(the_plan, silent)
    assert record.images == SAMPLE
    assert record.weights is None
    assert not (tmp_path / "study" / "weights").exists()
    assert (tmp_path / "study" / "rows.jsonl").read_text().startswith(before)
    with pytest.raises(ConfigurationError, match="another methods"):
        study_patches(plan(job(tmp_path / "study", methods=["l1"], ratios=[0.5])), silent)
    (tmp_path / "study" / "rows.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1 is damaged"):
        study_patches(the_plan, silent)


def test_batches_and_given_weights_change_nothing(study, tmp_path):
    """One masked image at a time, with the weights that the study computed."""
    small = job(tmp_path / "s", methods=["l1", "cosine"], ratios=[0.5], batch_size=1, weights=str(study / "weights"))
    record = study_patches(plan(small), silent)
    assert record.weights is not None
    assert record.weights.source == str(study / "weights")
    assert not (tmp_path / "s" / "weights").exists()
    for one, other in zip(read_rows(tmp_path / "s" / "rows.jsonl"), read_rows(study / "rows.jsonl"), strict=True):
        whole = {(each.method, each.ratio): each for each in other.outcomes}
        assert one.ranked == {name: other.ranked[name] for name in ("l1", "cosine")}
        for each in one.outcomes:
            assert each.right == pytest.approx(whole[each.method, each.ratio].right, abs=1e-5)


def test_black_is_another_mask_and_a_sum_another_score(tmp_path, whole_model, demo_builder):
    asked = {"question": "What is it?", "answer": "It is a {class}."}
    given = {"fill": "black", "score": "sum", "methods": ["random"], "ratios": [0.25], "seed": 5, **asked}
    study_patches(plan(job(tmp_path / "s", images={"sample": 2}, **given)), silent)
    images = open_labelled(LabelledSpec(sample=2))
    for place, row in enumerate(read_rows(tmp_path / "s" / "rows.jsonl")):
        answers = [f"It is a {name}." for name in images.classes]
        seen = masked_by_hand(images.decode(place), row.ranked["random"][:4], (0, 0, 0))
        n = demo_builder.build(seen, asked["question"], answers[row.label]).n_response
        means = scores_by_hand(whole_model, demo_builder, seen, asked["question"], answers)
        assert row.outcomes[1].right == pytest.approx(n * means[row.label], abs=1e-3)


def folder_of_images(root: Path) -> Path:
    for place, name in enumerate(("circle", "square")):
        (root / name).mkdir(parents=True)
        for seed in range(2):
            Image.effect_noise((60 + 10 * place, 50), 40 + seed).convert("RGB").save(root / name / f"{seed}.png")
    return root


def test_images_that_cannot_be_looked_at_are_left_out_and_said(tmp_path):
    root = folder_of_images(tmp_path / "images")
    (root / "circle" / "0.png").write_bytes(b"no image")
    Image.new("RGB", (900, 2)).save(root / "square" / "9.png")
    arguments = ["--images", root, "--model", "demo", "--sae", "demo", "--methods", "cosine,random", "--ratios", "0.5"]
    result = run(*arguments, "-o", tmp_path / "study", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "study" / "patches.json").read_text())
    assert record["images"] == 3
    assert [(each["id"], each["error"]) for each in record["left_out"]] == [
        ("circle/0.png", "CorruptImage"),
        ("square/9.png", "ImageShape"),
    ]
    assert "2 images left out, such as circle/0.png" in result.stderr
    for file in root.glob("*/*.png"):
        file.write_bytes(b"no image")
    none = run(*arguments, "-o", tmp_path / "none")
    assert none.exit_code == 1
    assert "no image could be looked at; the first, circle/0.png" in none.output


def test_a_job_file_does_the_same(study, tmp_path):
    arguments = ["--sample", SAMPLE, "--ratios", "0.25,0.5", "--gallery", 3, "-o", study]
    file = tmp_path / "patches.yaml"
    file.write_text(run(*arguments, "--print-job").stdout)
    before = (study / "patches.json").read_bytes()
    result = CliRunner().invoke(app, ["run", str(file)])
    assert result.exit_code == 0, result.output
    assert "8 whole images: accuracy" in result.stdout
    assert (study / "patches.json").read_bytes() == before
    dry = run(*arguments, "--dry-run")
    assert "would look at 8 images of 4 classes of demo-shapes whole, and 10 times masked" in " ".join(
        dry.output.split()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratios", "0.5,1"], "--ratios: 1.0: a ratio is between 0 and 1"),
        (["--ratios", "0.5,0.5"], "--ratios: 0.5 is named twice"),
        (["--methods", "l0,l9"], "--methods: "),
        (["--answer", "a thing"], "--answer: 'a thing' is the same for every class; write {class}"),
        (["--gallery-ratio", "0.3"], "--gallery-ratio: 0.3 is none of the ratios"),
        (["--methods", "l0", "--weights", "x"], "--weights: cosine alone reads them"),
        (["--weights", "nowhere"], "does not hold whole feature weights"),
        (["--images", "nowhere", "--model", "demo", "--sae", "demo"], "neither a known set of labelled images"),
        (["--images", "./nowhere", "--model", "some/model"], "--sae: no SAE is named for some/model"),
        (["--classes", "circle,hexagon"], "--classes: demo-shapes has no hexagon"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_refused_before_any_work(tmp_path, arguments, message):
    result = run(*arguments, "-o", tmp_path / "study")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "study").exists()


def test_weights_of_another_dictionary_are_refused(study, tmp_path):
    shutil.copytree(study / "weights", tmp_path / "weights")
    record = tmp_path / "weights" / "feature_weights.json"
    record.write_text(record.read_text().replace('"sae_sha256": "', '"sae_sha256": "0'))
    with pytest.raises(ConfigurationError, match="computed with another SAE hash 0"):
        plan(job(tmp_path / "study", weights=str(tmp_path / "weights")))


def test_the_gallery_takes_all_classes_in_turn_and_shows_where_an_image_is_masked(study, tmp_path):
    rows = list(read_rows(study / "rows.jsonl"))
    assert [row.label for row in chosen(study / "rows.jsonl", 6)] == [0, 1, 2, 3, 0, 1]
    assert len(chosen(study / "rows.jsonl", 50)) == SAMPLE
    assert chosen(study / "rows.jsonl", 4)[2].id == next(row.id for row in rows if row.label == 2)
    image = Image.effect_noise((48, 30), 60).convert("RGB")
    masked = np.zeros((30, 48), bool)
    masked[5:9, 7:30] = True
    found = np.array(checkered(image, masked))
    assert bool((found[~masked] == np.array(image)[~masked]).all())
    assert {tuple(pixel) for pixel in found[masked].tolist()} == {(255,) * 3, (205,) * 3}
