"""A checkpoint laid out as the published one: transformers finds every weight under its old name."""

import json

import pytest
import torch
from safetensors import safe_open

from bench import fullsize
from bench.published import NAME, SCALES, published_name, write_model, write_sae
from curate.errors import ConfigurationError
from curate.sae.load import load_dictionary
from curate.scoring.pair import agree

SMALL = SCALES["small"]


@pytest.fixture
def pair(tmp_path):
    model = tmp_path / NAME.rpartition("/")[2]
    write_model(model, SMALL, shard_bytes=9 * 10**6)
    write_sae(tmp_path / "sae", SMALL)
    return agree(str(model), str(tmp_path / "sae"), None)


def test_a_published_checkpoint_is_read_below_the_cut(pair):
    assert (pair.hook_layer, pair.notes) == (2, ())
    cut = pair.model.family.load_model(pair.model, pair.hook_layer, torch.bfloat16, "cpu").model
    name = "language_model.layers.2.mlp.up_proj.weight"
    assert len(list(pair.model.path.glob("model-*-of-*.safetensors"))) > 1
    index = json.loads((pair.model.path / "model.safetensors.index.json").read_text())
    old = published_name(f"model.{name}")
    assert old == "language_model.model.layers.2.mlp.up_proj.weight"
    with safe_open(pair.model.path / index["weight_map"][old], "pt") as file:
        written = file.get_tensor(old)
    assert written.dtype is torch.float16
    assert torch.equal(cut.get_parameter(name), written.bfloat16())
    assert {"vision_tower.vision_model.embeddings.class_embedding", "image_newline"} <= set(index["weight_map"])
    assert load_dictionary(pair.sae).weight.shape == (128, 1024)


def test_a_checkpoint_without_a_shard_is_refused(pair):
    next(pair.model.path.glob("model-00002-*")).unlink()
    with pytest.raises(ConfigurationError, match="model"):
        pair.model.family.load_model(pair.model, pair.hook_layer, torch.float32, "cpu")


def test_the_bench_writes_again_what_was_cut_off(tmp_path, monkeypatch):
    def cut_off(folder, scale):
        write_sae(folder, scale)
        (folder / "cfg.json").unlink()
        raise KeyboardInterrupt

    model, sae = tmp_path / "model" / "m", tmp_path / "sae"
    monkeypatch.setattr(fullsize, "_apart", fullsize._timed)
    monkeypatch.setattr(fullsize, "write_sae", cut_off)
    with pytest.raises(KeyboardInterrupt):
        fullsize._written(tmp_path, model, sae, "small")
    monkeypatch.setattr(fullsize, "write_sae", write_sae)
    written = fullsize._written(tmp_path, model, sae, "small")
    assert [name for name, *_ in written] == ["write the SAE", "write photographs"]
    assert (sae / "cfg.json").exists()
    assert fullsize._written(tmp_path, model, sae, "small") == []
