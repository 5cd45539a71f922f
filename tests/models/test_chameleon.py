"""What Chameleon has of its own: turns without a template, and images as codes."""

import json

import pytest
import torch

from curate.errors import ConfigurationError
from curate.models.families import inspect_model
from curate.models.packing import pack
from tests.models.small import SIDE, code_name, picture, write_chameleon


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chameleon(tmp_path_factory.mktemp("chameleon"), swin_norm=False)


def loaded(path):
    info = inspect_model(str(path))
    return info, info.family.load_builder(info)


def test_a_turn_ends_with_its_token(folder):
    _, builder = loaded(folder)
    decode = builder.processor.tokenizer.decode
    prompt = "<s><racm3:break>" + "<image>" * SIDE**2 + "<eoss>What?<reserved08706>"
    assert decode(builder.build(picture(50, 40), "What?", None).input_ids) == prompt
    assert decode(builder.build(picture(50, 40), "What?", "This.").input_ids) == f"{prompt}This.<reserved08706>"


def test_a_template_is_used_where_there_is_one(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ':' }}{% for c in m['content'] %}"
        "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}"
    )
    _, builder = loaded(tmp_path)
    text = builder.processor.tokenizer.decode(builder.build(picture(50, 40), "What?", "This.").input_ids)
    assert text == "<s>user:<racm3:break>" + "<image>" * SIDE**2 + "<eoss>What?assistant:This."


def test_placeholders_become_the_codes_of_their_own_image(folder):
    """Each image of a batch through the VQ encoder by itself, its codes named as the vocabulary names them."""
    info, builder = loaded(folder)
    cut = info.family.load_model(info, 0, torch.float32, "cpu")
    batch = [
        builder.build_document(["a", picture(20, 20, 1), picture(30, 20, 2), "b"]),
        builder.build_document(["none"]),
        builder.build(picture(40, 40, 3), "What?", None),
    ]
    seen = []
    cut.model.embed_tokens.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    encoded = []
    cut.model.vqmodel.encoder.register_forward_hook(lambda _m, inputs, _o: encoded.append(len(inputs[0])))
    packed = pack(batch)
    cut.hidden_states(packed)
    assert encoded == [1, 1, 1]
    vocabulary = json.loads((folder / "config.json").read_text())["vocabulary_map"]
    for inputs, places in zip(batch, packed.places, strict=True):
        ids = seen[0][0][places]
        expected = inputs.input_ids.clone()
        codes = []
        for pixels in inputs.tensors.get("pixel_values", []):
            latent = cut.model.vqmodel.quant_conv(cut.model.vqmodel.encoder(pixels[None])).detach()[0].flatten(1).T
            codes += torch.cdist(latent, cut.model.vqmodel.quantize.embedding.weight).argmin(1).tolist()
        assert len(set(codes)) > 3 or not codes
        expected[inputs.is_image] = torch.tensor([vocabulary[code_name(code)] for code in codes]).long()
        assert torch.equal(ids, expected)


def test_folders_that_are_no_whole_model_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["sep_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigurationError, match=r"no chat template, and its tokenizer no sep_token"):
        loaded(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocabulary_map": None}))
    with pytest.raises(ConfigurationError, match="no vocabulary_map with <image>"):
        loaded(tmp_path)
