"""The small hub cache is what the hub's client would have fetched, and its SAEs explain its models."""

import re

import pytest
import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load_file

from curate import demo
from curate.datasets import DatasetSpec
from tests.hub import ALIGN_ANYTHING, CHAMELEON, FOLDERS, LLAVA, RLAIF_V, SAES, hidden_states, snapshot


def test_the_hubs_client_finds_every_repository_offline(hub):
    kinds = {f"models--{name}": "model" for name in (LLAVA, CHAMELEON, SAES)}
    kinds |= {f"datasets--{name}": "dataset" for name in (ALIGN_ANYTHING, RLAIF_V)}
    for name, kind in kinds.items():
        repository = name.partition("--")[2]
        found = snapshot_download(repository, repo_type=kind, cache_dir=hub / "hub", local_files_only=True)
        assert found == str(snapshot(hub, name))
        assert re.fullmatch("[0-9a-f]{40}", snapshot(hub, name).name)
        assert all(file.is_symlink() for file in snapshot(hub, name).rglob("*") if not file.is_dir())


def test_the_checkpoint_has_the_published_names_and_loads_as_the_same_model(hub):
    folder = snapshot(hub, f"models--{LLAVA}")
    keys = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            keys |= set(shard.keys())
    published = {
        "image_newline",
        "language_model.lm_head.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
    }
    assert published <= keys
    model, report = transformers.LlavaNextForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    same = transformers.LlavaNextForConditionalGeneration.from_pretrained(demo.MODEL)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("model", [LLAVA, CHAMELEON])
def test_an_sae_explains_its_model_read_plainly_and_not_at_another_scale(hub, model):
    data = snapshot(hub, f"datasets--{ALIGN_ANYTHING}")
    hidden = hidden_states(snapshot(hub, f"models--{model}"), DatasetSpec(name="align-anything", data_dir=str(data)))
    w = load_file(snapshot(hub, f"models--{SAES}") / FOLDERS[model] / "sae_weights.safetensors")
    total = (hidden - hidden.mean(0)).square().sum()

    def explained(scale: float) -> float:
        found = (scale * hidden @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] / scale + w["b_dec"]
        return 1 - float((found - hidden).square().sum() / total)

    norm_scale = hidden.shape[1] ** 0.5 / float(hidden.norm(dim=1).mean())
    assert explained(1.0) > 0.7
    assert explained(norm_scale) < explained(1.0) - 0.1
