"""The trainer against sae_lens's own `fit`, and against itself, saved and restored."""

import pytest
import torch
from sae_lens import SAE

from curate.sae.parameters import TrainingParameters
from curate.sae.train import new_trainer, restore_trainer, save_dictionary, save_trainer, step

D_MODEL, BATCH = 16, 64
ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu", "gated")


def parameters(architecture, **changes) -> TrainingParameters:
    fields = {
        "architecture": architecture,
        "expansion": 4,
        "k": 5,
        "steps": 30,
        "train_batch_size_tokens": BATCH,
        "lr": 1e-2,
        "lr_warm_up_steps": 5,
        "lr_decay_steps": 10,
        "l1_warm_up_steps": 12,
        "l0_warm_up_steps": 12,
        "dead_feature_window": 4,
        "feature_sampling_window": 7,
    }
    return TrainingParameters(**{**fields, **changes})


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(BATCH, D_MODEL, generator=generator) for _ in range(count)]


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_are_those_of_sae_lens_fit(architecture):
    ours = new_trainer(parameters(architecture), D_MODEL, "cpu")
    for batch in batches(30):
        step(ours, batch)
    theirs = new_trainer(parameters(architecture), D_MODEL, "cpu")
    theirs.data_provider = iter(batches(30))
    theirs.fit()
    assert_equal(weights(ours), weights(theirs))
    assert ours.n_training_steps == theirs.n_training_steps == 30
    assert torch.equal(ours.act_freq_scores, theirs.act_freq_scores)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("cut", [3, 14, 26])
def test_a_restored_trainer_takes_the_same_steps(tmp_path, architecture, cut):
    whole = new_trainer(parameters(architecture), D_MODEL, "cpu")
    losses = [step(whole, batch).loss.item() for batch in batches(30)]
    first = new_trainer(parameters(architecture), D_MODEL, "cpu")
    for batch in batches(30)[:cut]:
        step(first, batch)
    save_trainer(first, tmp_path)
    second = new_trainer(parameters(architecture, seed=7), D_MODEL, "cpu")
    restore_trainer(second, tmp_path)
    assert [step(second, batch).loss.item() for batch in batches(30)[cut:]] == losses[cut:]
    assert_equal(weights(second), weights(whole))
    assert torch.equal(second.n_forward_passes_since_fired, whole.n_forward_passes_since_fired)
    assert torch.equal(second.feature_sparsity, whole.feature_sparsity)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_saved_dictionary_has_its_scale_folded(tmp_path, architecture):
    trainer = new_trainer(parameters(architecture), D_MODEL, "cpu")
    for batch in batches(30):
        step(trainer, batch)
    scale = 0.125
    save_dictionary(trainer, tmp_path, scale, {"hook_layer": 3})
    folded = SAE.load_from_disk(tmp_path)
    trainer.sae.save_inference_model(tmp_path / "plain")
    plain = SAE.load_from_disk(tmp_path / "plain")
    hidden = batches(1)[0] / scale
    torch.testing.assert_close(folded.encode(hidden), plain.encode(hidden * scale), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(folded(hidden), plain(hidden * scale) / scale, atol=2e-4, rtol=1e-4)
    assert folded.cfg.metadata.hook_layer == 3
    assert folded.cfg.normalize_activations == "none"
    weights_file, config = tmp_path / "sae_weights.safetensors", tmp_path / "cfg.json"
    assert weights_file.stat().st_mode == config.stat().st_mode


def test_papers_settings_are_the_defaults():
    """SAE-V paper, Table 2."""
    found = TrainingParameters()
    assert (found.architecture, found.steps, found.train_batch_size_tokens) == ("standard", 30_000, 4096)
    assert (found.lr, found.l1_coefficient, found.l1_warm_up_steps, found.lr_decay_steps) == (5e-5, 5, 1500, 6000)
    assert (found.adam_beta1, found.adam_beta2, found.seed) == (0.9, 0.999, 42)
    assert (found.dead_feature_window, found.dead_feature_threshold) == (1000, 1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"lr_decay_steps": 28}, "more than the 30 steps"), ({"steps": 0}, "greater than"), ({"lr": 0}, "greater than")],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parameters("standard", **changes)
