"""Pooled features against loops in NumPy; images that are left out; work that is cut off; several layers at once."""

import json
import shutil
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from curate import demo
from curate.datasets.labelled import LabelledSpec, open_labelled
from curate.errors import CorruptImage, DataError
from curate.interpret import pooling
from curate.interpret.pooling import PooledImages, pool, pooled_images, read_pooled
from curate.interpret.pooling_rule import checked_pooling
from curate.interpret.subject import look_at
from curate.models import ModelSpec
from curate.models.loading import Cut
from curate.models.packing import pack
from curate.sae.dictionary import ARCHITECTURES, Dictionary

D_MODEL, D_SAE = 5, 12
POOLINGS = ("sum", "max", "top-1", "top-3", "top-100")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Images are small, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_dictionary(architecture: str, seed: int) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    parts = {
        "standard": {},
        "topk": {"k": 4},
        "jumprelu": {"threshold": drawn(D_SAE).abs()},
        "gated": {"magnitude_scale": drawn(D_SAE).exp(), "magnitude_shift": drawn(D_SAE)},
    }
    return Dictionary(architecture, "none", drawn(D_MODEL, D_SAE), drawn(D_SAE), **parts[architecture])


def pooled_by_hand(z: np.ndarray, name: str) -> np.ndarray:
    """Token by token, feature by feature."""
    found = np.zeros(z.shape[1])
    for token in z:
        kept = sorted(range(len(token)), key=lambda feature: -token[feature])
        kept = kept[: int(name.split("-")[1])] if name.startswith("top-") else kept
        for feature in kept:
            found[feature] = max(found[feature], token[feature]) if name == "max" else found[feature] + token[feature]
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_pooling_is_that_of_a_loop_however_tokens_fall_into_blocks(architecture, seed, tokens):
    dictionary = random_dictionary(architecture, seed)
    hidden = torch.randn(tokens, D_MODEL, generator=torch.Generator().manual_seed(seed))
    z = dictionary.encode(hidden).numpy()
    with pytest.MonkeyPatch.context() as patch:
        for elements in (1, 2 * D_SAE + 1, 2**20):
            patch.setattr(pooling, "_BLOCK_ELEMENTS", elements)
            found = pool(dictionary, hidden, POOLINGS)
            assert list(found) == list(POOLINGS)
            for name in POOLINGS:
                assert found[name].dtype == torch.float32
                np.testing.assert_allclose(found[name].numpy(), pooled_by_hand(z, name), rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_poolings_bound_each_other_and_do_not_ask_for_the_order_of_tokens(seed, tokens):
    dictionary = random_dictionary("standard", seed)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, D_MODEL, generator=generator)
    found = pool(dictionary, hidden, POOLINGS)
    for name, other in (("top-1", "top-3"), ("top-3", "sum"), ("max", "sum")):
        assert bool((found[name] <= found[other] + 1e-5).all())
    torch.testing.assert_close(found["top-100"], found["sum"])
    # A feature that fires at all is in the sum and in the maximum.
    assert torch.equal(found["sum"] > 0, found["max"] > 0)
    again = pool(dictionary, hidden[torch.randperm(tokens, generator=generator)], POOLINGS)
    for name in POOLINGS:
        torch.testing.assert_close(again[name], found[name])


@pytest.mark.parametrize("name", ["sum", "max", "top-1", "top-5", "top-1000"])
def test_poolings_that_there_are(name):
    assert checked_pooling(name) == name


@pytest.mark.parametrize("name", ["", "mean", "top", "top-", "top-0", "top-01", "top--1", "top-1.5", "top-5 ", "Sum"])
def test_poolings_that_there_are_not(name):
    with pytest.raises(ValueError, match="no pooling"):
        checked_pooling(name)


IMAGES = open_labelled(LabelledSpec(name="demo-shapes", sample=10, seed=5))
NAMES = ("sum", "max", "top-2")


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture(scope="module")
def layer_1_sae(tmp_path_factory):
    """The demo's dictionary as if of another layer."""
    folder = tmp_path_factory.mktemp("saes") / "layer-1"
    shutil.copytree(demo.SAE, folder)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= {"hook_layer": 1, "hook_name": "blocks.1.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def subject(layer_1_sae):
    return look_at(ModelSpec(name="demo"), ["demo", layer_1_sae])


@pytest.fixture(scope="module")
def whole(subject, tmp_path_factory) -> PooledImages:
    return pooled_images(subject, IMAGES, NAMES, "image", tmp_path_factory.mktemp("whole") / "images", silent)


def inputs_of(builder, place: int):
    return builder.build(IMAGES.decode(place), IMAGES.question(place), None)


def test_two_layers_in_one_pass_are_those_of_two_models_cut_at_them(
    subject, whole, layer_1_sae, demo_info, demo_builder, demo_cut, demo_dictionary
):
    at_1 = demo_info.family.load_model(demo_info, 1, torch.float32, "cpu")
    assert whole.places == list(range(10))
    assert set(whole.features) == {(sae, name) for sae in ("demo", layer_1_sae) for name in NAMES}
    for place in (0, 3, 9):
        inputs = inputs_of(demo_builder, place)
        for sae, cut in (("demo", demo_cut), (layer_1_sae, at_1)):
            z = demo_dictionary.encode(cut.hidden_states(pack([inputs])))[inputs.is_image].numpy()
            for name in NAMES:
                found = whole.features[sae, name][[place]].toarray()[0]
                np.testing.assert_allclose(found, pooled_by_hand(z, name), rtol=1e-4, atol=1e-5)


def test_the_tower_is_the_mean_over_the_patches_of_the_whole_image(whole, demo_builder, demo_cut):
    for place in (1, 7):
        model, pixels = demo_cut.model, inputs_of(demo_builder, place).tensors["pixel_values"][:1]
        with torch.no_grad():
            states = model.vision_tower(pixels, output_hidden_states=True).hidden_states
        # The first position is CLIP's class token.
        expected = states[model.config.vision_feature_layer][0, 1:].mean(0).numpy()
        np.testing.assert_allclose(whole.tower[place], expected, rtol=1e-4, atol=1e-5)


def test_of_all_tokens_the_first_is_left_out(subject, demo_builder, demo_cut, demo_dictionary, tmp_path):
    one = replace(IMAGES, labels=IMAGES.labels[:1], ids=IMAGES.ids[:1])
    found = pooled_images(subject, one, ("sum",), "all", tmp_path / "images", silent)
    inputs = inputs_of(demo_builder, 0)
    z = demo_dictionary.encode(demo_cut.hidden_states(pack([inputs]))).numpy()
    assert inputs.input_ids[0] == demo_builder.bos_token_id
    np.testing.assert_allclose(
        found.features["demo", "sum"].toarray()[0], pooled_by_hand(z[1:], "sum"), rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(pooled_by_hand(z[1:], "sum"), pooled_by_hand(z, "sum"), rtol=1e-2)


def decoded(place: int) -> Image.Image:
    """The first three, which are a shard of their own, and the sixth cannot be read."""
    if place < 3:
        raise CorruptImage("bits fell out")
    return Image.new("RGB", (3000, 2)) if place == 5 else IMAGES.decode(place)


def test_what_cannot_be_read_is_listed_and_the_others_are_as_they_were(subject, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pooling, "SHARD_IMAGES", 3)
    damaged = replace(IMAGES, decode=decoded)
    found = pooled_images(subject, damaged, NAMES, "image", tmp_path / "images", silent)
    assert found.places == [3, 4, 6, 7, 8, 9]
    assert [(each.id, each.error) for each in found.left_out] == [
        *((IMAGES.ids[place], "CorruptImage") for place in range(3)),
        (IMAGES.ids[5], "ImageShape"),
    ]
    assert found.left_out[0].reason == "bits fell out"
    for name, features in found.features.items():
        np.testing.assert_array_equal(features.toarray(), whole.features[name][found.places].toarray())
    np.testing.assert_array_equal(found.tower, whole.tower[found.places])


def test_no_image_at_all_is_an_error(subject, tmp_path):
    three = replace(IMAGES, decode=decoded, labels=IMAGES.labels[:3], ids=IMAGES.ids[:3])
    with pytest.raises(DataError, match="no image could be read; the first, 00000000: bits fell out"):
        pooled_images(subject, three, NAMES, "image", tmp_path / "images", silent)


@pytest.mark.parametrize("error", ["NonFinite", "OutOfMemory"])
def test_what_a_model_cannot_say_is_left_out(subject, whole, tmp_path, monkeypatch, error):
    real, calls = Cut.hidden_states_after, []

    def sick(self, packed, layers):
        calls.append(packed)
        found = real(self, packed, layers)
        if len(calls) == 2 and error == "OutOfMemory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(calls) == 2:
            found[1] = torch.where(torch.arange(found[1].shape[0])[:, None] == 3, torch.nan, found[1])
        return found

    monkeypatch.setattr(Cut, "hidden_states_after", sick)
    found = pooled_images(subject, IMAGES, NAMES, "image", tmp_path / "images", silent)
    assert [(each.id, each.error) for each in found.left_out] == [(IMAGES.ids[1], error)]
    np.testing.assert_array_equal(found.tower, whole.tower[found.places])


def test_any_other_fault_is_none_of_an_image(subject, tmp_path, monkeypatch):
    def broken(self, packed, layers):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Cut, "hidden_states_after", broken)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        pooled_images(subject, IMAGES, NAMES, "image", tmp_path / "images", silent)


def test_cut_off_it_goes_on_shard_by_shard_to_the_same_bytes(subject, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pooling, "SHARD_IMAGES", 4)
    read = []
    counted = replace(IMAGES, decode=lambda place: read.append(place) or IMAGES.decode(place))

    def until_6(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pooled_images(subject, counted, NAMES, "image", tmp_path / "cut", until_6)
    assert sorted(file.name for file in (tmp_path / "cut").iterdir()) == ["00000.safetensors"]
    assert read == [0, 1, 2, 3, 4, 5]
    read.clear()
    reported: list[int] = []
    found = pooled_images(subject, counted, NAMES, "image", tmp_path / "cut", lambda done, _: reported.append(done))
    assert read == [4, 5, 6, 7, 8, 9]
    assert reported == [4, 5, 6, 7, 8, 9, 10]
    pooled_images(subject, IMAGES, NAMES, "image", tmp_path / "whole", silent)
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()
    for name, features in found.features.items():
        np.testing.assert_array_equal(features.toarray(), whole.features[name].toarray())
    read.clear()
    pooled_images(subject, counted, NAMES, "image", tmp_path / "cut", silent)
    assert read == []


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_shard_is_named(subject, tmp_path, content):
    folder = tmp_path / "images"
    one = replace(IMAGES, labels=IMAGES.labels[:1], ids=IMAGES.ids[:1])
    pooled_images(subject, one, NAMES, "image", folder, silent)
    file = folder / "00000.safetensors"
    file.write_bytes(file.read_bytes()[:-9] if content is None else content)
    with pytest.raises(DataError, match=r"00000\.safetensors is damaged .*--overwrite"):
        pooled_images(subject, one, NAMES, "image", folder, silent)


def test_what_is_written_is_read_again_with_names_of_any_kind(tmp_path, whole):
    features = {("/a/b.c", "top-1"): whole.features["demo", "sum"], ("x", "max"): whole.features["demo", "max"][:, :3]}
    given = replace(whole, features=features)
    pooling.write_pooled(tmp_path / "f.safetensors", given, {"labels": np.arange(10)})
    found = read_pooled(tmp_path / "f.safetensors")
    assert found.places == given.places
    assert found.left_out == given.left_out
    assert set(found.features) == set(features)
    for name in features:
        assert found.features[name].shape == features[name].shape
        np.testing.assert_array_equal(found.features[name].toarray(), features[name].toarray())
