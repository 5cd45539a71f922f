"""What LLaVA-1.5 and LLaVA-Gemma have of their own: templates, processors in parts, the CLS token."""

import json

import pytest
import torch

from curate.errors import ConfigurationError
from curate.models.families import inspect_model
from curate.models.packing import pack
from tests.models.small import SIDE, picture, write_llava, write_tokenizer


def loaded(path):
    info = inspect_model(str(path))
    return info, info.family.load_builder(info)


def test_a_whole_processors_template_places_the_image(tmp_path):
    _, builder = loaded(write_llava(tmp_path, "llama"))
    text = builder.processor.tokenizer.decode(builder.build(picture(50, 40), "What?", "This.").input_ids)
    assert text == "<s>[INST] " + "<image>" * SIDE**2 + "\nWhat? [/INST] This.</s>"


def test_llava_gemma_takes_its_tokenizers_template_with_the_image_in_the_text(tmp_path):
    _, builder = loaded(write_llava(tmp_path, "gemma"))
    decode = builder.processor.tokenizer.decode
    prompt = "<s><start_of_turn>user\n" + "<image>" * SIDE**2 + "\nWhat?<end_of_turn>\n"
    assert decode(builder.build(picture(50, 40), "What?", None).input_ids) == prompt
    both = builder.build(picture(50, 40), "What?", "This.")
    assert decode(both.input_ids) == f"{prompt}<start_of_turn>model\nThis.<end_of_turn>\n"
    assert int(both.is_image.sum()) == SIDE**2


def test_a_template_of_strings_is_seen_as_such_wherever_it_lies(tmp_path):
    """A text model's template saved as chat_template.jinja looks like the processor's own."""
    write_llava(tmp_path, "gemma")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    _, builder = loaded(tmp_path)
    assert int(builder.build(picture(50, 40), "What?", None).is_image.sum()) == SIDE**2


def test_a_model_that_keeps_the_cls_token_has_one_image_token_more(tmp_path):
    info, builder = loaded(write_llava(tmp_path, "llama", strategy="full"))
    inputs = builder.build_document([picture(50, 40), picture(60, 60)])
    assert int(inputs.is_image.sum()) == 2 * (SIDE**2 + 1)
    cut = info.family.load_model(info, 0, torch.float32, "cpu")
    assert len(cut.hidden_states(pack([inputs]))) == len(inputs.input_ids)


def test_folders_that_are_no_whole_model_are_refused(tmp_path):
    write_llava(tmp_path, "gemma")
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigurationError, match="no chat template"):
        loaded(tmp_path)
    write_tokenizer(tmp_path, chat_template="{{ messages[-1]['content'] }}")
    with pytest.raises(ConfigurationError, match="does not keep image, question and response"):
        loaded(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_token_index": 7}))
    with pytest.raises(ConfigurationError, match="<image> is token 3 for the tokenizer but 7 for the model"):
        loaded(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "vision_config": {"model_type": "pixtral"}}))
    with pytest.raises(ConfigurationError, match="the vision tower is pixtral"):
        loaded(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "text_config": {"model_type": "gpt2"}}))
    with pytest.raises(ConfigurationError, match="the text model is gpt2"):
        loaded(tmp_path)
