"""The recipe of the demo model and dictionary, at a hundredth of its length."""

import json

import pytest
from sae_lens import SAE

from curate.demo import train, train_model, train_sae
from curate.models.families import inspect_model
from curate.sae.load import inspect_dictionary


@pytest.mark.slow
def test_the_recipe_learns_and_writes_what_curate_and_sae_lens_read(tmp_path, monkeypatch):
    monkeypatch.setattr(train_model, "POOL", 200)
    monkeypatch.setattr(train_model, "HELD_OUT_SCENES", 10)
    monkeypatch.setattr(train_sae, "HELD_OUT_TOKENS", 4_000)
    report = train.train(tmp_path, steps=40, sae_tokens=41_000, seed=1)
    assert report == json.loads((tmp_path / "training.json").read_text())
    # Guessing among 1,024 tokens costs ln 1024 = 6.9.
    assert report["model"]["loss"] < 4.5
    assert set(report["model"]["exact_match"]) == set(train_model.KINDS)
    model, sae = inspect_model(str(tmp_path / "model")), inspect_dictionary(str(tmp_path / "sae"))
    assert (sae.model_hash, sae.hook_layer, sae.d_model) == (model.sha256, 2, model.d_model)
    metadata = SAE.load_from_disk(tmp_path / "sae").cfg.metadata
    assert metadata.model_hash == model.sha256
    norm = train_sae.hidden_tokens(model, 41_000, first_row=0).norm(dim=1).mean()
    assert metadata.activation_scale == pytest.approx(model.d_model**0.5 / float(norm))


def test_packed_training_equals_separate_sequences():
    """The shared prefix with its 4-D mask and restarted positions gives each pair's own logits."""
    import random

    import torch

    torch.manual_seed(0)
    processor = train_model.build_processor()
    model = train_model.build_model(processor).eval()
    pool = train_model.ScenePool(processor, "pack", 8)
    inputs, labels, scenes = next(iter(train_model.batches(pool, processor, 1, random.Random(0))))
    with torch.no_grad():
        packed = model(**inputs).logits[0]
    row_positions, row_ids = inputs["position_ids"][0], inputs["input_ids"][0]
    prefix = len(pool.prefixes[next(i for i, scene in enumerate(pool.scenes) if scene == scenes[0])])
    starts = [i for i in range(prefix, len(row_ids)) if row_positions[i] == prefix]
    stops = [*starts[1:], int((labels[0] != -100).nonzero().max()) + 1]
    assert len(starts) == train_model.QUESTIONS_PER_IMAGE
    for start, stop in zip(starts, stops, strict=True):
        alone = torch.cat((row_ids[:prefix], row_ids[start:stop]))[None]
        tiles = 3 if scenes[0].size in ((112, 56), (56, 112)) else 5
        with torch.no_grad():
            expected = model(
                input_ids=alone, pixel_values=inputs["pixel_values"][:1, :tiles], image_sizes=inputs["image_sizes"][:1]
            ).logits[0, prefix:]
        torch.testing.assert_close(packed[start:stop], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", [10, 5_000])
def test_hidden_tokens_are_as_many_as_asked_for(tokens, demo_info):
    hidden = train_sae.hidden_tokens(demo_info, tokens, first_row=10**8)
    assert hidden.shape == (tokens, demo_info.d_model)
    assert hidden.isfinite().all()
