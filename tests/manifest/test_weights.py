import json

import pytest
import torch

from curate.errors import ConfigurationError
from curate.manifest.weights import read_weights, write_weights

FACTS = {
    "model_sha256": "m",
    "sae_sha256": "s",
    "dataset_sha256": "d",
    "hook_layer": 2,
    "text": "prompt",
    "rule": "merged",
    "top_k": 5,
    "seed": 0,
    "samples": 9,
}
WEIGHT = torch.tensor([0.5, 0.0, -0.25], dtype=torch.float64)
HAS = torch.tensor([True, False, True])


def test_weights_come_back_as_they_were_from_their_folder_or_their_run(tmp_path):
    written = write_weights(tmp_path / "weights", WEIGHT, HAS, {}, **FACTS)
    assert (written.features, written.features_without_weight) == (3, 1)
    for folder in (tmp_path / "weights", tmp_path):
        weight, record = read_weights(folder)
        assert torch.equal(weight, WEIGHT)
        assert record == written


@pytest.mark.parametrize("damage", ["missing", "truncated", "other", "record", "shape"])
def test_damaged_weights_are_refused(tmp_path, damage):
    write_weights(tmp_path, WEIGHT, HAS, {}, **FACTS)
    tensors, record = tmp_path / "feature_weights.safetensors", tmp_path / "feature_weights.json"
    if damage == "missing":
        tensors.unlink()
    elif damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "other":
        write_weights(tmp_path / "b", WEIGHT + 1, HAS, {}, **FACTS)
        tensors.write_bytes((tmp_path / "b" / tensors.name).read_bytes())
    elif damage == "record":
        record.write_text("{}")
    else:
        record.write_text(json.dumps({**json.loads(record.read_text()), "features": 4}))
    with pytest.raises(ConfigurationError):
        read_weights(tmp_path)
