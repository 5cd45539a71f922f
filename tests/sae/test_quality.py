"""The sums taken chunk by chunk against whole matrices in NumPy."""

import numpy as np
import pytest
import torch

from curate.sae.quality import Quality, loss_recovered, text_loss

TOKENS, D_MODEL, D_SAE = 500, 24, 60


@pytest.fixture(scope="module")
def tokens():
    """Hidden states far from zero, whose variance sums of float32 squares would lose."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, D_MODEL, generator=generator) + 3000 * torch.randn(D_MODEL, generator=generator)
    reconstruction = hidden + torch.randn(TOKENS, D_MODEL, generator=generator) * 0.4
    reconstruction[7] = 0
    rare = torch.linspace(0, 0.35, D_SAE)
    z = torch.rand(TOKENS, D_SAE, generator=generator) * (torch.rand(TOKENS, D_SAE, generator=generator) < rare)
    is_image = torch.rand(TOKENS, generator=generator) < 0.7
    z[:, 20:26] *= is_image[:, None]
    z[:, 30:33] *= ~is_image[:, None]
    return hidden, reconstruction, z, is_image


def oracle(hidden, reconstruction, z, mask, delta) -> dict[str, float]:
    x, y, active = hidden.double().numpy()[mask], reconstruction.double().numpy()[mask], z.numpy()[mask] > delta
    norms = np.sqrt((x**2).sum(1)) * np.sqrt((y**2).sum(1))
    return {
        "tokens": int(mask.sum()),
        "l0": active.sum(1).mean(),
        "mse": ((x - y) ** 2).mean(),
        "explained_variance": 1 - ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(),
        "cosine": np.divide((x * y).sum(1), norms, out=np.zeros_like(norms), where=norms > 0).mean(),
        "dead": int((~active.any(0)).sum()),
        "dense": int((active.mean(0) > 0.1).sum()),
    }


@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("size", [1, 37, TOKENS])
def test_every_figure_is_that_of_the_whole_matrices(tokens, size, delta):
    quality = Quality(D_MODEL, D_SAE, delta=delta)
    for part in zip(*(tensor.split(size) for tensor in tokens), strict=True):
        quality.add(*part)
    found = quality.result()
    hidden, reconstruction, z, is_image = tokens
    masks = {"all": np.ones(TOKENS, bool), "text": ~is_image.numpy(), "image": is_image.numpy()}
    for name, mask in masks.items():
        expected = oracle(hidden, reconstruction, z, mask, delta)
        assert found.modalities[name].model_dump() == pytest.approx(expected, rel=1e-9)
        assert 0 < expected["dead"] < expected["dense"] < D_SAE
    on_text, on_image = ((z.numpy() > delta)[mask].any(0) for mask in (masks["text"], masks["image"]))
    counts = (on_text & on_image).sum(), (on_text & ~on_image).sum(), (on_image & ~on_text).sum()
    assert (found.on_both, found.on_text_only, found.on_image_only) == counts
    assert min(counts) > 0


def test_a_modality_without_tokens_has_no_figures(tokens):
    hidden, reconstruction, z, _ = tokens
    quality = Quality(D_MODEL, D_SAE)
    quality.add(hidden[:0], reconstruction[:0], z[:0], torch.zeros(0, dtype=torch.bool))
    quality.add(hidden, reconstruction, z, torch.zeros(TOKENS, dtype=torch.bool))
    found = quality.result()
    image = found.modalities["image"]
    assert (image.tokens, image.l0, image.mse, image.explained_variance, image.cosine) == (0, None, None, None, None)
    assert found.modalities["all"] == found.modalities["text"]
    assert found.on_both == found.on_image_only == 0


def test_one_token_alone_has_no_variance_to_explain(tokens):
    quality = Quality(D_MODEL, D_SAE)
    quality.add(*(tensor[:1] for tensor in tokens))
    assert quality.result().modalities["all"].explained_variance is None


def test_only_text_targets_are_counted_each_from_the_token_before_it():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 13, generator=generator) * 3
    ids = torch.randint(13, (9,), generator=generator)
    is_image = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    total, count = text_loss(logits, ids, is_image)
    expected = 0.0
    for target in (1, 5, 6, 8):
        row = logits[target - 1].double().numpy()
        expected += np.log(np.exp(row).sum()) - row[ids[target]]
    assert count == 4
    assert total == pytest.approx(expected, rel=1e-6)
    assert text_loss(logits[:1], ids[:1], is_image[:1]) == (0.0, 0)


def test_loss_recovered_is_1_without_harm_and_0_at_that_of_zero_ablation():
    assert loss_recovered(2.0, 6.0, 2.0) == 1
    assert loss_recovered(2.0, 6.0, 6.0) == 0
    assert loss_recovered(2.0, 6.0, 3.0) == 0.75
    assert loss_recovered(2.0, 6.0, 8.0) == -0.5
    assert loss_recovered(2.0, 1.9, 2.1) is None
