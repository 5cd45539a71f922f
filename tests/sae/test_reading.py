"""Readings of SAEs that the demo model's hidden states decide: right, or refused with the figures; nothing else."""

import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from curate import demo
from curate.errors import ConfigurationError
from curate.models.families import inspect_model
from curate.models.packing import pack
from curate.sae import reading as module
from curate.sae.decoder import load_decoder
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.sae.parameters import TrainingParameters
from curate.sae.reading import measure_reading
from curate.sae.scale import estimate_scale
from curate.sae.train import new_trainer, save_dictionary, step

KINDS = ("standard", "topk", "jumprelu", "gated")
OPEN = "expected_average_only_in"


def states(info, prepared, layer=demo.HOOK_LAYER):
    """Hidden states after a layer, without first positions and BOS; and which are image tokens."""
    model = info.family.load_model(info, layer, torch.float32, "cpu")
    bos = info.family.load_builder(info).bos_token_id
    hidden, image = [], []
    for row in prepared:
        inputs = row.inputs
        kept = inputs.input_ids != bos
        kept[0] = False
        packed = pack([inputs])
        hidden.append(model.hidden_states(packed)[kept])
        image.append(inputs.is_image[kept])
    return torch.cat(hidden), torch.cat(image)


@pytest.fixture(scope="module")
def seen(demo_info, demo_prepared):
    return states(demo_info, demo_prepared[:60])


@pytest.fixture(scope="module")
def unseen(demo_info, demo_prepared):
    return states(demo_info, demo_prepared[60:90])


SPARSITY = {
    "standard": {"l1_coefficient": 1.5},
    "topk": {"k": 12},
    "gated": {"l1_coefficient": 1.5},
}


def trained(folder, kind, hidden):
    """One of a kind, its scale folded in, with a config that leaves that open, as sae_lens 3 to 5 wrote finals."""
    scale = estimate_scale([hidden])
    p = TrainingParameters(architecture=kind, expansion=4, steps=400, lr=3e-3, lr_decay_steps=80, **SPARSITY[kind])
    trainer = new_trainer(p, hidden.shape[1], "cpu")
    generator = torch.Generator().manual_seed(0)
    for _ in range(p.steps):
        step(trainer, hidden[torch.randint(len(hidden), (1024,), generator=generator)] * scale)
    save_dictionary(trainer, folder, scale, {"hook_layer": demo.HOOK_LAYER})
    return scale


def opened(folder):
    """The config says nothing of where the scale is."""
    path = folder / "cfg.json"
    config = {**json.loads(path.read_text()), "normalize_activations": OPEN}
    config["metadata"].pop("activation_scale", None)
    path.write_text(json.dumps(config))


def without_scale(folded, folder, scale):
    """The same before its scale was folded in."""
    folder.mkdir()
    (folder / "cfg.json").write_text((folded / "cfg.json").read_text())
    tensors = load_file(folded / "sae_weights.safetensors")
    tensors["W_enc"] /= scale
    tensors["W_dec"] *= scale
    tensors["b_dec"] *= scale
    save_file(tensors, folder / "sae_weights.safetensors")


@pytest.fixture(scope="module")
def saes(made_once, seen):
    """A folder with `KIND-folded`, `KIND-unfolded` and `KIND.scale` of each kind."""

    def fill(root):
        for kind in KINDS:
            folded = root / f"{kind}-folded"
            if kind == "jumprelu":
                folded.mkdir()
                for file in ("cfg.json", "sae_weights.safetensors"):
                    (folded / file).write_bytes((demo.SAE / file).read_bytes())
                scale = json.loads((folded / "cfg.json").read_text())["metadata"]["activation_scale"]
            else:
                folded.mkdir()
                scale = trained(folded, kind, seen[0])
            opened(folded)
            without_scale(folded, root / f"{kind}-unfolded", scale)
            (root / f"{kind}.scale").write_text(repr(scale))

    return made_once("readings", fill)


def explained(info, scale, hidden, mask) -> float:
    """The fraction of variance unexplained of some tokens, in whole matrices."""
    from dataclasses import replace

    read = replace(info, scale=scale)
    x = hidden[mask]
    y = load_decoder(read).decode(load_dictionary(read).encode(x), x)
    return float((y - x).double().square().sum() / (x - x.mean(0)).double().square().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["folded", "unfolded"])
def test_the_reading_is_the_right_one_and_its_figures_are_those_of_both(saes, unseen, kind, state):
    hidden, is_image = unseen
    info = inspect_dictionary(str(saes / f"{kind}-{state}"))
    assert info.scale is None
    found = measure_reading(info, hidden, is_image)
    true = float((saes / f"{kind}.scale").read_text())
    assert found.taken == state
    assert found.estimated_scale == estimate_scale([hidden]) == pytest.approx(true, rel=0.05)
    assert found.scale == (1.0 if state == "folded" else found.estimated_scale)
    assert set(found.unexplained) == {"text", "image"}
    for modality, mask in (("text", ~is_image), ("image", is_image)):
        # All tokens are taken where there are few, and these are about as many.
        for taken, scale in (("folded", 1.0), ("unfolded", found.estimated_scale)):
            expected = explained(info, scale, hidden, mask)
            assert found.unexplained[modality][taken] == pytest.approx(expected, rel=0.25), (modality, taken)
    assert ("folded already" in found.note) == (state == "folded")
    for figures in found.unexplained.values():
        assert f"{figures['folded']:.3f} if folded" in found.note
        assert f"{figures['unfolded']:.3f} if not" in found.note


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["folded", "unfolded"])
def test_either_modality_alone_decides(saes, unseen, kind, state):
    hidden, is_image = unseen
    info = inspect_dictionary(str(saes / f"{kind}-{state}"))
    for mask in (is_image, ~is_image):
        found = measure_reading(info, hidden[mask], is_image[mask])
        assert (found.taken, len(found.unexplained)) == (state, 1)


def refused(info, hidden, is_image, why="neither reading clearly") -> str:
    with pytest.raises(ConfigurationError, match=f"cannot be told: {why}") as caught:
        measure_reading(info, hidden, is_image)
    message = str(caught.value)
    # Both figures of both modalities, and what to do.
    assert message.count(" if folded") == message.count("if not") == 2
    assert "activation_scaler.json" in message
    assert message.endswith("start its runs anew with --overwrite")
    return message


@pytest.fixture(scope="module")
def other_model(demo_info, made_once):
    """A model of the demo's shape, of other weights: each tensor's numbers shuffled."""

    def fill(folder):
        for file in demo.MODEL.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        generator = torch.Generator().manual_seed(4)
        for file in demo.MODEL.glob("*.safetensors"):
            tensors = {
                key: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
                for key, tensor in load_file(file).items()
            }
            save_file(tensors, folder / file.name, metadata={"format": "pt"})

    return inspect_model(str(made_once("other-model", fill)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["folded", "unfolded"])
@pytest.mark.parametrize("where", ["layer 0", "layer 3", "other model", "rotated"])
def test_on_the_wrong_hidden_states_it_is_right_or_refused(
    saes, demo_info, demo_prepared, other_model, unseen, kind, state, where
):
    """Never the other reading: that of a scale which the weights do not lack, or do."""
    if where == "rotated":
        turn, _ = torch.linalg.qr(torch.randn(96, 96, generator=torch.Generator().manual_seed(2)))
        hidden, is_image = unseen[0] @ turn, unseen[1]
    elif where == "other model":
        hidden, is_image = states(other_model, demo_prepared[60:70])
    else:
        hidden, is_image = states(demo_info, demo_prepared[60:70], int(where.removeprefix("layer ")))
    info = inspect_dictionary(str(saes / f"{kind}-{state}"))
    try:
        found = measure_reading(info, hidden, is_image)
    except ConfigurationError:
        refused(info, hidden, is_image)
    else:
        assert found.taken == state
        assert where.startswith("layer")  # of the model's own residual stream, which blocks change little by little


@pytest.mark.parametrize("kind", KINDS)
def test_random_weights_are_refused(saes, unseen, tmp_path, kind):
    folder = tmp_path / "random"
    without_scale(saes / f"{kind}-folded", folder, 1.0)
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(folder / "sae_weights.safetensors")
    noise = {key: torch.randn(tensor.shape, generator=generator) * 0.3 for key, tensor in tensors.items()}
    if "threshold" in noise:
        noise["threshold"] = noise["threshold"].abs()
    save_file(noise, folder / "sae_weights.safetensors")
    refused(inspect_dictionary(str(folder)), *unseen)


def standard(folder, w_enc, w_dec, b_enc=None, b_dec=None, **config):
    """A ReLU SAE of these weights, in a folder whose config leaves its scale open."""
    folder.mkdir(exist_ok=True)
    d_model, d_sae = w_enc.shape
    tensors = {
        "W_enc": w_enc,
        "W_dec": w_dec,
        "b_enc": torch.zeros(d_sae) if b_enc is None else b_enc,
        "b_dec": torch.zeros(d_model) if b_dec is None else b_dec,
    }
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    content = {
        "architecture": "standard",
        "d_in": d_model,
        "d_sae": d_sae,
        "dtype": "float32",
        "normalize_activations": OPEN,
        "apply_b_dec_to_input": False,
        "hook_name": "blocks.2.hook_resid_post",
        **config,
    }
    (folder / "cfg.json").write_text(json.dumps(content))
    return inspect_dictionary(str(folder))


def test_zero_biases_reconstruct_alike_at_any_scale_and_are_refused(tmp_path, unseen):
    """Scale times x goes in and x / scale comes out, of a ReLU whatever its scale."""
    identity = torch.eye(96)
    info = standard(tmp_path / "sae", torch.cat([identity, -identity], 1), torch.cat([identity, -identity]))
    message = refused(info, *unseen)
    assert message.count("0.000 if folded") == 2
    assert message.count("0.000 if not") == 2


@pytest.fixture(scope="module")
def text_only(made_once, seen):
    """One that learned from text tokens alone, in both states."""

    def fill(root):
        hidden, is_image = seen
        (root / "folded").mkdir()
        scale = trained(root / "folded", "standard", hidden[~is_image])
        opened(root / "folded")
        without_scale(root / "folded", root / "unfolded", scale)

    return made_once("text-only", fill)


@pytest.mark.parametrize("state", ["folded", "unfolded"])
def test_an_sae_of_text_alone_is_decided_by_text(text_only, unseen, state):
    found = measure_reading(inspect_dictionary(str(text_only / state)), *unseen)
    assert found.taken == state
    assert found.unexplained["text"][state] < 0.25
    assert min(found.unexplained["image"].values()) > 0.5


def test_modalities_that_contradict_each_other_are_refused(unseen, saes, monkeypatch):
    verdicts = iter(["folded", "unfolded"])
    monkeypatch.setattr(module, "_verdict", lambda _: next(verdicts))
    info = inspect_dictionary(str(saes / "standard-folded"))
    refused(info, *unseen, "text tokens say folded and image tokens say unfolded")


@pytest.mark.parametrize(
    "figures", [(0.51, 9.0), (0.3, 0.37), (0.3, 0.3), (0.01, 0.019), (1e-15, 1e-13), (math.nan, 0.1), (0.1, math.nan)]
)
def test_no_verdict_is_given_where_neither_is_clearly_right(figures):
    for folded, unfolded in (figures, figures[::-1]):
        assert module._verdict({"folded": folded, "unfolded": unfolded}) is None


@pytest.mark.parametrize("figures", [(0.5, 0.625), (0.01, 0.021), (0.0, 0.4)])
def test_a_verdict_is_given_where_one_is_clearly_better(figures):
    good, bad = figures
    assert module._verdict({"folded": good, "unfolded": bad}) == "folded"
    assert module._verdict({"folded": bad, "unfolded": good}) == "unfolded"


def test_the_advice_of_the_refusal_works(tmp_path, unseen):
    identity = torch.eye(96)
    info = standard(tmp_path / "sae", torch.cat([identity, -identity], 1), torch.cat([identity, -identity]))
    message = refused(info, *unseen)
    advice = message[message.index("{") : message.index("}") + 1]
    (tmp_path / "sae" / "activation_scaler.json").write_text(advice)
    info = inspect_dictionary(str(tmp_path / "sae"))
    assert (info.scale, info.units) == (1.0, "normalised")
    assert torch.equal(load_dictionary(info).weight, torch.cat([identity, -identity], 1))


def test_nothing_is_told_from_no_tokens(saes):
    info = inspect_dictionary(str(saes / "standard-folded"))
    with pytest.raises(ConfigurationError, match="hidden states of the data are none"):
        measure_reading(info, torch.zeros(0, 96), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ConfigurationError, match="no token has variance to explain"):
        measure_reading(info, torch.ones(1, 96), torch.zeros(1, dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factor=st.integers(-12, 12).map(lambda n: 2.0**n) | st.floats(1e-3, 1e3))
def test_a_scale_moved_from_the_config_into_the_weights_changes_no_score(saes, unseen, tmp_path, kind, factor):
    """Features that are active, and on which tokens, are what scores are made of; powers of 2 change no bit."""
    hidden, is_image = unseen[0][:400], unseen[1][:400]
    folder = tmp_path / f"{factor}"
    if folder.exists():
        return
    without_scale(saes / f"{kind}-folded", folder, factor)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    (saes / f"{kind}-folded" / "activation_scaler.json").unlink(missing_ok=True)
    outside = inspect_dictionary(str(folder))
    inside = without_open(saes / f"{kind}-folded", tmp_path / f"{factor}-inside")
    assert (outside.scale, inside.scale) == (factor, 1.0)
    assert outside.default_delta == inside.default_delta == 1.0
    z, expected = load_dictionary(outside).encode(hidden), load_dictionary(inside).encode(hidden)
    exact = math.frexp(factor)[0] == 0.5
    assert torch.equal(z, expected) or not exact
    torch.testing.assert_close(z, expected, atol=1e-4, rtol=1e-4)
    for delta in (0.25, 1.0):
        near = ((expected - delta).abs() < 1e-3) & (not exact)
        active, wanted = (z > delta) & ~near, (expected > delta) & ~near
        assert torch.equal(active, wanted)
        both = active[is_image].any(0) & active[~is_image].any(0)
        assert torch.equal(both, wanted[is_image].any(0) & wanted[~is_image].any(0))


def without_open(folded, folder):
    """The same with a config that says that nothing is to be folded."""
    without_scale(folded, folder, 1.0)
    path = folder / "cfg.json"
    config = {**json.loads(path.read_text()), "normalize_activations": "none"}
    config["metadata"]["activation_units"] = "normalised"
    path.write_text(json.dumps(config))
    return inspect_dictionary(str(folder))
