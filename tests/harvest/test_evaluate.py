"""Figures of real models and dictionaries against sae_lens, hooks of this file's own, and whole matrices in NumPy."""

import json
import xml.dom.minidom
from functools import cached_property

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from transformers import LlavaNextForConditionalGeneration

from curate import demo
from curate.datasets import DatasetSpec, open_dataset
from curate.errors import ConfigurationError, DataError
from curate.harvest.compare import Spread
from curate.harvest.evaluate import Evaluation, evaluate
from curate.harvest.evaluate_job import PICTURE, RESULT, SAEEvaluateJob
from curate.harvest.evaluate_plan import plan
from tests.harvest.test_fold import demo_copy
from tests.models.small import write_llava_next, write_text_model
from tests.sae.folders import edit

ROWS, LAYER = 3, demo.HOOK_LAYER
DATA = {"limit": ROWS, "seed": 11}
PLACES = ("all", "text", "image")


def write_sae(path, d_model, d_sae=150, seed=0, layer=LAYER, normalize="none", **facts) -> str:
    """A random one, which has its hook layer in its metadata."""
    sae = StandardSAE(StandardSAEConfig(d_in=d_model, d_sae=d_sae, normalize_activations=normalize))
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    sae.b_enc.data -= 1
    sae.cfg.metadata.hook_layer = layer
    for name, value in facts.items():
        setattr(sae.cfg.metadata, name, value)
    sae.save_model(path)
    return str(path)


def judge(**arguments) -> Evaluation:
    steps = []
    job = SAEEvaluateJob.model_validate({"dataset": DATA, **arguments})
    evaluation = evaluate(plan(job), lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1], "progress ends at its total"
    return evaluation


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random dictionary of the demo model's width, with statistics of each token undone when it decodes."""
    folder = tmp_path_factory.mktemp("sae")
    return {"demo": demo.SAE, "random": write_sae(folder / "random", 96, normalize="layer_norm")}


@pytest.fixture(scope="module")
def judged(folders):
    return judge(saes=["demo", str(folders["random"])], models=[{"name": "demo"}])


class Truth:
    """The whole model of transformers, run input by input with hooks of its own."""

    def __init__(self, builder):
        self.bos = builder.bos_token_id
        self.model = LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL, dtype=torch.float32).eval()
        samples = [sample for _, sample in open_dataset(DatasetSpec(**DATA)).samples(range(ROWS))]
        self.inputs = [builder.build(sample.image, sample.question, sample.chosen) for sample in samples]
        self.hidden = [self.run(inputs)[1] for inputs in self.inputs]
        self.kept = [
            np.array([p > 0 and token != self.bos for p, token in enumerate(inputs.input_ids.tolist())])
            for inputs in self.inputs
        ]
        self.image = [inputs.is_image.numpy() for inputs in self.inputs]

    @torch.no_grad()
    def run(self, inputs, replacement=None):
        """Logits, and the states after the hook layer; `replacement` takes their place."""
        caught = []

        def hook(_module, _arguments, output):
            states = output[0] if isinstance(output, tuple) else output
            caught.append(states.reshape(-1, states.shape[-1]).clone())
            if replacement is None:
                return None
            return (replacement[None], *output[1:]) if isinstance(output, tuple) else replacement[None]

        handle = self.model.model.language_model.layers[LAYER].register_forward_hook(hook)
        try:
            logits = self.model(
                input_ids=inputs.input_ids[None],
                pixel_values=inputs.tensors["pixel_values"],
                image_sizes=inputs.tensors["image_sizes"].reshape(-1, 2),
            ).logits[0]
        finally:
            handle.remove()
        return logits.double().numpy(), caught[0]

    @cached_property
    def original(self) -> float:
        return self.loss()

    @cached_property
    def zero(self) -> dict[str, float]:
        return {place: self.loss(lambda n: self.replaced(n, place, torch.zeros_like)) for place in PLACES}  # noqa: B023

    def replaced(self, number, place, by):
        """States with those of a modality, but for the first position and BOS, replaced."""
        where = self.kept[number].copy()
        if place != "all":
            where &= self.image[number] == (place == "image")
        states = self.hidden[number].clone()
        states[where] = by(states)[where]
        return states

    def loss(self, replaced=None) -> float:
        """Mean over the text targets of all samples, with the states that `replaced` gives for each."""
        losses = []
        for number, inputs in enumerate(self.inputs):
            logits, _ = self.run(inputs, None if replaced is None else replaced(number))
            for position in range(1, len(inputs.input_ids)):
                if not self.image[number][position]:
                    row = logits[position - 1]
                    top = row.max()
                    losses.append(top + np.log(np.exp(row - top).sum()) - row[inputs.input_ids[position]])
        return float(np.mean(losses))


@pytest.fixture(scope="module")
def truth(demo_builder):
    return Truth(demo_builder)


@pytest.mark.parametrize("which", ["demo", "random"])
def test_reconstruction_is_that_of_sae_lens(judged, truth, folders, which):
    sae = SAE.load_from_disk(folders[which])
    found = judged.judgements[["demo", "random"].index(which)].reconstruction
    x = torch.cat([hidden[kept] for hidden, kept in zip(truth.hidden, truth.kept, strict=True)])
    image = np.concatenate([image[kept] for image, kept in zip(truth.image, truth.kept, strict=True)])
    with torch.no_grad():
        z = sae.encode(x)
        y = sae.decode(z).double().numpy()
    x, active = x.double().numpy(), z.numpy() > 0
    for name, mask in {"all": np.ones_like(image), "text": ~image, "image": image}.items():
        a, b, on = x[mask], y[mask], active[mask]
        expected = {
            "tokens": len(a),
            "l0": on.sum(1).mean(),
            "mse": ((a - b) ** 2).mean(),
            "explained_variance": 1 - ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum(),
            "cosine": ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean(),
            "dead": (on.sum(0) == 0).sum(),
            "dense": (on.mean(0) > 0.1).sum(),
        }
        assert found.modalities[name].model_dump() == pytest.approx(expected, rel=1e-5)
    text, pictures = active[~image].any(0), active[image].any(0)
    expected = (text & pictures).sum(), (text & ~pictures).sum(), (pictures & ~text).sum()
    assert (found.on_both, found.on_text_only, found.on_image_only) == expected


@pytest.mark.parametrize("which", ["demo", "random"])
def test_losses_are_those_of_states_replaced_by_another_hook(judged, truth, folders, which):
    sae = SAE.load_from_disk(folders[which])
    found = judged.judgements[["demo", "random"].index(which)].losses
    original = truth.original
    assert found.original == pytest.approx(original, rel=1e-5)
    assert found.targets == sum((~image[1:]).sum() for image in truth.image)
    for place in PLACES:
        with torch.no_grad():
            loss = truth.loss(lambda n: truth.replaced(n, place, lambda states: sae.decode(sae.encode(states))))  # noqa: B023
        zero = truth.zero[place]
        splice = found.spliced[place]
        assert (splice.reconstruction, splice.zero) == pytest.approx((loss, zero), rel=1e-5)
        assert abs(loss - original) > 1e-4 < abs(zero - original)
        recovered = (zero - loss) / (zero - original) if zero > original else None
        assert splice.recovered == (recovered if recovered is None else pytest.approx(recovered, rel=1e-4))


def test_batch_budget_and_chunks_do_not_matter_nor_whether_loss_is_computed(judged, folders, monkeypatch):
    monkeypatch.setattr("curate.sae.quality.CHUNK_ELEMENTS", 7 * 768)
    for batch_size in (1, 100_000):
        found = judge(saes=["demo", folders["random"]], models=[{"name": "demo"}], loss=False, batch_size=batch_size)
        for one, other in zip(judged.judgements, found.judgements, strict=True):
            assert other.losses is None
            for name, figures in one.reconstruction.modalities.items():
                assert other.reconstruction.modalities[name].model_dump() == pytest.approx(
                    figures.model_dump(), rel=1e-5
                )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """An MLLM and a text model of its width, random."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("mllm", "base"):
        (folder / name).mkdir()
    return str(write_llava_next(folder / "mllm", "mistral")), str(write_text_model(folder / "base", "mistral"))


@pytest.fixture(scope="module")
def compared(models, tmp_path_factory):
    """Three seeds of one dictionary and one that saw less of images, on both models."""
    folder = tmp_path_factory.mktemp("seeds")
    facts = {"model_hash": "ab" * 32, "model_name": "other"}
    saes = [
        write_sae(
            folder / f"v-{seed}",
            32,
            seed=seed,
            layer=1,
            training={"steps": 5, "seed": seed, "image_share": None, "measured_image_share": 0.7 + seed / 100},
            **facts,
        )
        for seed in range(3)
    ]
    saes += [
        write_sae(folder / "text", 32, seed=9, layer=1, training={"steps": 5, "seed": 9, "image_share": 0.0}, **facts)
    ]
    output = folder / "out"
    return judge(
        saes=saes,
        models=[{"name": name} for name in models],
        dataset={"limit": 2, "seed": 3},
        compare=True,
        output=str(output),
        plot=str(folder / "new" / "picture.png"),
    ), folder


def test_seeds_share_a_row_with_their_standard_error(compared, models):
    evaluation, folder = compared
    assert [(row.label, row.model) for row in evaluation.compared] == [
        (label, model) for model in models for label in ("v (3 seeds)", "text")
    ]
    seeds = evaluation.compared[0]
    assert seeds.saes == tuple(str(folder / f"v-{seed}") for seed in range(3))
    three = [each for each in evaluation.judgements if each.model == models[0] and each.sae in seeds.saes]
    values = {
        "mse": [each.reconstruction.modalities["all"].mse for each in three],
        "l0": [each.reconstruction.modalities["all"].l0 for each in three],
        "loss_recovered": [each.losses.spliced["all"].recovered for each in three],
        "features_on_both": [each.reconstruction.on_both for each in three],
    }
    for measure, found in values.items():
        if None in found:
            assert seeds.figures[measure] is None
            continue
        assert seeds.figures[measure].mean == pytest.approx(np.mean(found))
        assert seeds.figures[measure].standard_error == pytest.approx(np.std(found, ddof=1) / 3**0.5)
    alone = evaluation.compared[1].figures["mse"]
    assert alone == Spread(mean=evaluation.judgements[3].reconstruction.modalities["all"].mse, standard_error=None)


def test_a_text_model_sees_the_text_alone_and_transfer_is_said(compared, models):
    evaluation, _ = compared
    for judgement in evaluation.judgements[4:]:
        assert judgement.model == models[1]
        parts = judgement.reconstruction.modalities
        assert parts["image"].tokens == 0 < parts["text"].tokens == parts["all"].tokens
        assert judgement.reconstruction.on_both == judgement.reconstruction.on_image_only == 0
        assert set(judgement.losses.spliced) == {"all", "text"}
        assert judgement.losses.spliced["all"] == judgement.losses.spliced["text"]
    assert all("transfer: it was trained on other with hash abab" in each.notes[0] for each in evaluation.judgements)


def test_report_and_pictures_are_written(compared):
    evaluation, folder = compared
    assert Evaluation.model_validate_json((folder / "out" / RESULT).read_text()) == evaluation
    text = xml.dom.minidom.parse(str(folder / "out" / PICTURE)).documentElement.toxml()
    assert "v (3 seeds)" in text
    assert "explained variance" in text
    with Image.open(folder / "new" / "picture.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert {(0, 114, 178), (230, 159, 0), (255, 255, 255)} <= {colour for _, colour in colours}


@pytest.mark.parametrize("undo", [True, False], ids=["unfolded", "folded"])
def test_an_open_scale_is_measured_on_the_data_and_said(tmp_path, truth, undo):
    folder, _ = demo_copy(tmp_path / "old", undo)
    (found,) = judge(saes=[str(folder)], models=[{"name": "demo"}], loss=False).judgements
    x = torch.cat([hidden[kept] for hidden, kept in zip(truth.hidden, truth.kept, strict=True)])
    scale = 96**0.5 / np.linalg.norm(x.double().numpy(), axis=1).mean() if undo else 1.0
    note = found.notes[-2 if "say" in found.notes[-1] else -1]
    assert (f"not folded: {scale:.6g} was folded in" if undo else "folded already") in note
    assert note.count("if folded") == note.count("if not") == 2
    edit(folder, normalize_activations="none")
    sae = SAE.load_from_disk(folder)
    sae.fold_activation_norm_scaling_factor(scale)
    with torch.no_grad():
        mse = ((sae.decode(sae.encode(x)) - x).double() ** 2).mean()
    assert found.reconstruction.modalities["all"].mse == pytest.approx(float(mse), rel=1e-5)
    assert found.reconstruction.modalities["all"].explained_variance > 0.9


def test_an_open_scale_that_cannot_be_told_is_refused_with_both_figures(tmp_path):
    name = write_sae(tmp_path / "random", 96, normalize="expected_average_only_in")
    with pytest.raises(ConfigurationError, match="cannot be told") as caught:
        judge(saes=[name], models=[{"name": "demo"}], loss=False)
    assert str(caught.value).count(" if folded") == 2


def test_data_that_it_was_trained_on_are_named(tmp_path):
    def notes(training):
        name = write_sae(tmp_path / "sae", 96, model_name="demo", training=training)
        (found,) = judge(saes=[name], models=[{"name": "demo"}], loss=False, dataset={"limit": 2, "seed": 3}).judgements
        return " ".join(found.notes)

    assert "not held out" not in notes({"dataset": {"name": "demo", "seed": 4}, "dataset_sha256": "0"})
    # The demo world of one seed is the same, whatever its length.
    assert "(900 rows" in notes({"dataset": {"name": "demo", "seed": 3, "limit": 900}, "dataset_sha256": "0"})
    sha256 = plan(SAEEvaluateJob(dataset=DatasetSpec(limit=2, seed=3))).dataset_sha256
    assert "trained on these data, so" in notes({"dataset": {"name": "/elsewhere"}, "dataset_sha256": sha256})


def test_rows_that_cannot_be_used_are_counted_with_a_reason(tmp_path, models):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("What colour is the circle? The circle is red.")
    (texts / "b.txt").write_bytes(b"\xff\xfe\xff")
    (texts / "c.txt").write_bytes(b"\xff")
    sae = write_sae(tmp_path / "sae", 32, layer=1)
    arguments = {"saes": [sae], "models": [{"name": models[1]}], "dataset": {"name": str(texts)}, "loss": False}
    (found,) = judge(**arguments).judgements
    (lost,) = found.left_out
    assert (lost.error, lost.rows) == ("NotUtf8", 2)
    assert lost.reason
    (texts / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="NotUtf8"):
        judge(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": [{"name": "demo"}], "d_model": 32}, r"width 32, demo has 96"),
        ({"layer": 4}, r"hook layer 4 .* demo has 0 to 3"),
        ({"layer": None}, "does not say which layer"),
        ({"hook_layer": 1}, "was trained on layer 2"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path, change, message):
    kinds = {key: change.pop(key) for key in ("d_model", "layer") if key in change}
    name = write_sae(tmp_path / "sae", **{"d_model": 96, **kinds})
    job = SAEEvaluateJob.model_validate({"saes": [name], "models": [{"name": "demo"}], "dataset": DATA, **change})
    with pytest.raises(ConfigurationError, match=message):
        plan(job)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"saes": ["runs/sae"]}, "--on: name the model"),
        ({"plot": "picture.gif"}, r"an .svg or a .png"),
        ({"saes": ["demo", "demo"]}, "the SAE demo is named twice"),
        ({"models": [{"name": "demo"}, {"name": "demo"}]}, "the model demo is named twice"),
    ],
)
def test_a_job_that_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ValidationError, match=message):
        SAEEvaluateJob.model_validate(arguments)


def test_the_first_200_rows_are_taken_where_none_are_named():
    assert SAEEvaluateJob().dataset == DatasetSpec(limit=200, seed=2_000_003)
    assert SAEEvaluateJob.model_validate({"dataset": {"limit": None, "seed": None}}) == SAEEvaluateJob()
    assert SAEEvaluateJob.model_validate({"dataset": {"sample": 5}}).dataset.limit is None
    assert json.loads(SAEEvaluateJob().model_dump_json())["models"][0]["name"] == "demo"
