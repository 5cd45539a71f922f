"""Studies through SAEs whose configs leave the activation scale open: measured on some of the images, or refused."""

import pytest
import torch

from curate.datasets.labelled import LabelledSpec, open_labelled
from curate.errors import ConfigurationError
from curate.interpret.features import features, plan
from curate.interpret.features_job import FeaturesJob
from curate.interpret.scales import with_scales
from curate.interpret.subject import look_at
from curate.models import ModelSpec
from curate.models.loading import Cut
from curate.scoring.fit import READING_SAMPLES
from tests.command import curate, refused
from tests.pipeline.test_first_pass import OPEN, SCALE, far_off, sae_folder, unfolded

IMAGES = {"name": "demo-colours", "sample": 36, "seed": 4}
MODEL = ModelSpec(name="demo")
WAYS = {"folded": lambda tensors: tensors, "unfolded": unfolded}


def test_open_scales_are_measured_and_others_are_left_alone(tmp_path):
    folded, other = (str(sae_folder(tmp_path / name, change, **OPEN)) for name, change in WAYS.items())
    subject = with_scales(look_at(MODEL, ["demo", folded, other]), open_labelled(LabelledSpec.model_validate(IMAGES)))
    assert [subject.pairs[name].sae.scale for name in ("demo", folded)] == [1.0, 1.0]
    assert subject.pairs[other].sae.scale == pytest.approx(SCALE, rel=0.1)
    assert ["as measured" in " ".join(subject.pairs[name].notes) for name in ("demo", folded, other)] == [
        *(False, True, True)
    ]


@pytest.mark.parametrize("error", ["NaN", "memory"])
def test_images_without_hidden_states_to_use_are_skipped(tmp_path, monkeypatch, error):
    real, calls = Cut.hidden_states_after, []

    def sick(self, packed, layers):
        calls.append(packed)
        found = real(self, packed, layers)
        if len(calls) == 2 and error == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {layer: states * torch.nan if len(calls) == 2 else states for layer, states in found.items()}

    monkeypatch.setattr(Cut, "hidden_states_after", sick)
    sae = str(sae_folder(tmp_path / "sae", unfolded, **OPEN))
    subject = with_scales(look_at(MODEL, [sae]), open_labelled(LabelledSpec.model_validate(IMAGES)))
    assert len(calls) == READING_SAMPLES
    assert subject.pairs[sae].sae.scale == pytest.approx(SCALE, rel=0.1)


def test_where_no_image_can_be_used_the_reasons_are_given(tmp_path, monkeypatch):
    real = Cut.hidden_states_after
    nan = lambda self, packed, layers: {k: v * torch.nan for k, v in real(self, packed, layers).items()}  # noqa: E731
    monkeypatch.setattr(Cut, "hidden_states_after", nan)
    subject = look_at(MODEL, [str(sae_folder(tmp_path / "sae", **OPEN))])
    said = f"none of {READING_SAMPLES} samples can be read to measure it on: hidden states are NaN"
    with pytest.raises(ConfigurationError, match=said):
        with_scales(subject, open_labelled(LabelledSpec.model_validate(IMAGES)))


def test_a_study_through_a_folded_sae_is_that_of_the_demos(tmp_path):
    sae = str(sae_folder(tmp_path / "sae", **OPEN))
    found = []
    for name in ("demo", sae):
        job = FeaturesJob.model_validate({"output": str(tmp_path / str(len(found))), "images": IMAGES, "saes": (name,)})
        found.append(features(plan(job), lambda done, total: None))
    one, other = found
    assert other.pooled[0].images == one.pooled[0].images
    assert any("is folded already" in note for note in other.notes)


def test_a_reading_that_is_not_clear_ends_the_study(tmp_path):
    subject = look_at(MODEL, [str(sae_folder(tmp_path / "sae", far_off, **OPEN))])
    with pytest.raises(ConfigurationError, match="cannot be told"):
        with_scales(subject, open_labelled(LabelledSpec.model_validate(IMAGES)))


def test_one_image_is_too_few_and_the_copy_that_is_advised_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sae_folder(tmp_path / "sae", unfolded, **OPEN)
    picture = tmp_path / "picture.png"
    open_labelled(LabelledSpec.model_validate(IMAGES)).decode(0).save(picture)
    steer = ("steer", "--model", "demo", "--image", picture, "--question", "What is it?", "--feature", 1, "--unit", 1)
    refused("curate sae import sae --on MODEL --dataset DATA --output DIR", *steer, "--sae", "sae")
    copied = curate("sae", "import", "sae", "--on", "demo", "--dataset", "demo", "--limit", 40, "--output", "copy")
    assert copied.exit_code == 0, copied.output
    assert curate(*steer, "--sae", "copy").exit_code == 0
