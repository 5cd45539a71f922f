"""What holds for every family: cut and whole models against transformers' own, inputs against independent counts."""

import random
import re
import shutil
from dataclasses import replace

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel

from curate.errors import ConfigurationError, ImageShape, ReservedToken, SampleError, TooLong
from curate.models.families import inspect_model
from curate.models.inputs import ModelInputs
from curate.models.loading import device_map
from curate.models.packing import pack
from tests.models.small import CODES, MODELS, N_LAYERS, SIDE, code_name, picture, write_text_model, write_tokenizer
from tests.models.test_llava_next import independent_image_tokens

SEEING = [name for name in MODELS if name.startswith(("llava", "chameleon"))]
TEXT_ONLY = [name for name in MODELS if name not in SEEING]
ONE_OF_EACH = ["llava_next-mistral", "llava-gemma", "chameleon", "gpt_neox"]


class Loaded:
    """A small model: its folder, its builder, and transformers' own whole model."""

    def __init__(self, name, path):
        self.name, self.path = name, MODELS[name](path)
        self.info = inspect_model(str(self.path))
        self.family = self.info.family
        self.builder = self.family.load_builder(self.info)
        self.tokenizer = getattr(self.builder.processor, "tokenizer", self.builder.processor)
        heads = hf.AutoModelForImageTextToText if self.family.takes_images else hf.AutoModelForCausalLM
        self.whole = heads.from_pretrained(self.path, dtype=torch.float32).eval()
        self.decoder = getattr(self.whole.base_model, "language_model", self.whole.base_model)
        self.norm = self.decoder.final_layer_norm if name == "gpt_neox" else self.decoder.norm

    def inputs(self):
        """A sample, and documents without, with one and with three images."""
        return [
            self.builder.build(picture(64, 48, 1), "What is this?", "Noise, and a long answer about it."),
            self.builder.build_document(["No picture at all, and somewhat more words than one line."]),
            self.builder.build_document(["Before. ", picture(25, 90, 2), "After."]),
            self.builder.build_document([picture(50, 50, 3), "Red. ", picture(99, 30, 4), picture(31, 40, 5)]),
        ]

    def run(self, inputs):
        """Transformers' own forward pass, every placeholder in place, with the output of every block."""
        caught = []
        hooks = [
            block.register_forward_hook(lambda _m, _i, output: caught.append(tensor_of(output)))
            for block in self.decoder.layers
        ]
        with torch.no_grad():
            output = self.whole(input_ids=inputs.input_ids[None], **inputs.tensors, output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        return output, caught


def tensor_of(output):
    return output[0] if isinstance(output, tuple) else output


LOADED: dict[str, Loaded] = {}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    def loaded(name):
        if name not in LOADED:
            LOADED[name] = Loaded(name, tmp_path_factory.mktemp(name))
        return LOADED[name]

    yield loaded
    LOADED.clear()


@pytest.fixture(params=MODELS)
def any_model(request, load):
    return load(request.param)


@pytest.fixture(params=SEEING)
def seeing(request, load):
    return load(request.param)


@pytest.fixture(params=TEXT_ONLY)
def text_model(request, load):
    return load(request.param)


@pytest.fixture(params=ONE_OF_EACH)
def one_of_each(request, load):
    return load(request.param)


@pytest.mark.parametrize("hook_layer", [0, 2, N_LAYERS - 1])
def test_hidden_states_are_the_whole_models_bit_for_bit(any_model, hook_layer):
    cut = any_model.family.load_model(any_model.info, hook_layer, torch.float32, "cpu")
    above = {p for block in any_model.decoder.layers[hook_layer + 1 :] for p in block.parameters()}
    below = [p for p in any_model.whole.base_model.parameters() if p not in above]
    assert any_model.family.n_parameters(any_model.info, hook_layer) == sum(p.numel() for p in below)
    assert len(list(cut.model.parameters())) == len(below) - len(list(any_model.norm.parameters()))
    for inputs in any_model.inputs():
        output, blocks = any_model.run(inputs)
        hidden = cut.hidden_states(pack([inputs]))
        assert len(blocks) == N_LAYERS
        assert torch.equal(hidden, blocks[hook_layer][0])
        if hook_layer + 1 < N_LAYERS:  # the last entry is after the final norm
            assert torch.equal(hidden, output.hidden_states[hook_layer + 1][0])


def test_texts_that_are_packed_do_not_see_each_other(any_model):
    cut = any_model.family.load_model(any_model.info, 2, torch.float32, "cpu")
    batch = any_model.inputs()
    assert len({len(inputs.input_ids) for inputs in batch}) > 1
    packed = pack(batch)
    together = cut.hidden_states(packed)
    for inputs, places in zip(batch, packed.places, strict=True):
        alone = cut.hidden_states(pack([inputs]))
        torch.testing.assert_close(together[places], alone, atol=1e-4, rtol=1e-4)


def test_a_shared_beginning_changes_neither_hidden_states_nor_likelihoods(seeing):
    """Two questions on each of two images, with two responses each, against passes of their own."""
    builder, layer = seeing.builder, 2
    common = "What do you see in this picture of noise, told in a few words"
    said = [
        (n, f"{common}: {end}", f"It is {response}")
        for n in (1, 2)
        for end in ("what is it?", "where is it?")
        for response in ("noise all over.", "a red square.")
    ]
    texts = [builder.build(picture(64, 48, n), question, response) for n, question, response in said]
    cut = seeing.family.load_model(seeing.info, layer, torch.float32, "cpu")
    whole = seeing.family.load_whole(seeing.info, torch.float32, "cpu")
    packed = pack(texts)
    assert sum(not segment.before for segment in packed.segments) == 2
    assert len(packed) < 0.6 * sum(len(text.input_ids) for text in texts)
    hidden, reading = cut.hidden_states(packed), whole.read(packed, layer)
    for text, places, said_of in zip(texts, packed.places, reading.log_probabilities, strict=True):
        alone = whole.read(pack([text]), layer)
        torch.testing.assert_close(hidden[places], alone.hidden, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(reading.hidden[places], alone.hidden, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(said_of, alone.log_probabilities[0], atol=1e-4, rtol=1e-4)


def test_a_shared_beginning_changes_nothing_in_text_models(text_model):
    """As if the first tokens were an image's; attention of all kinds, with and without a window."""
    cut = text_model.family.load_model(text_model.info, 2, torch.float32, "cpu")
    ids = torch.randint(5, 90, (70,), generator=torch.Generator().manual_seed(0))
    is_image = torch.arange(70) < 20
    texts = [ModelInputs(torch.cat([ids[:40], ids[40:].flip(0) + n]), is_image, {}, 0, "one image") for n in (0, 1)]
    packed = pack(texts)
    assert [len(segment) for segment in packed.segments] == [40, 30, 30]
    together = cut.hidden_states(packed)
    for text, places in zip(texts, packed.places, strict=True):
        torch.testing.assert_close(together[places], cut.hidden_states(pack([text])), atol=1e-4, rtol=1e-4)


def test_a_model_whose_attention_cannot_be_changed_is_refused(any_model, monkeypatch):
    monkeypatch.setattr(type(any_model.decoder), "set_attn_implementation", lambda self, name: None)
    with pytest.raises(ConfigurationError, match="cannot be changed"):
        any_model.family.load_model(any_model.info, 0, torch.float32, "cpu")


def test_logits_are_the_whole_models(any_model):
    whole = any_model.family.load_whole(any_model.info, torch.float32, "cpu")
    for inputs in any_model.inputs():
        expected = any_model.run(inputs)[0].logits[0]
        assert torch.equal(whole.logits(inputs), expected)
        assert torch.equal(whole.logits(inputs, 1, lambda hidden, _: hidden), expected)


@pytest.mark.parametrize("hook_layer", [0, 2, N_LAYERS - 1])
def test_an_edit_takes_the_residual_streams_place(any_model, hook_layer):
    def edit(hidden, _=None):
        assert hidden.ndim == 2
        return 0.5 * hidden + torch.arange(len(hidden))[:, None]

    def by_hand(_module, _inputs, output):
        edited = torch.stack([edit(row) for row in tensor_of(output)])
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    whole = any_model.family.load_whole(any_model.info, torch.float32, "cpu")
    inputs = any_model.inputs()[-1]
    hook = any_model.decoder.layers[hook_layer].register_forward_hook(by_hand)
    expected = any_model.run(inputs)[0].logits[0]
    hook.remove()
    assert torch.equal(whole.logits(inputs, hook_layer, edit), expected)
    without = any_model.run(inputs)[0].logits[0]
    assert not torch.allclose(expected, without)
    # No hook is left behind, not even by an edit that fails.
    with pytest.raises(ZeroDivisionError):
        whole.logits(inputs, hook_layer, lambda hidden, _: hidden / (1 // 0))
    assert torch.equal(whole.logits(inputs), without)


def image_tokens(name, size):
    """How many an image makes, by each family's description."""
    return independent_image_tokens(*size) if name.startswith("llava_next") else SIDE * SIDE


def test_image_tokens_of_fifty_sizes_equal_an_independent_count(seeing):
    rng = random.Random(7)
    sizes = [(rng.randint(20, 300), rng.randint(20, 300)) for _ in range(200)]
    sizes = [size for size in sizes if max(size) <= 3.5 * min(size)][:50]
    assert len(sizes) == 50
    boi, eoi = (seeing.tokenizer.convert_tokens_to_ids(token) for token in ("<racm3:break>", "<eoss>"))
    for size in sizes:
        inputs = seeing.builder.build(picture(*size), "q", None)
        assert int(inputs.is_image.sum()) == image_tokens(seeing.name, size), size
        # One run of image tokens; Chameleon's lies between two tokens that count as text.
        first, last = inputs.is_image.nonzero().flatten()[[0, -1]].tolist()
        assert inputs.is_image[first : last + 1].all()
        if seeing.name.startswith("chameleon"):
            assert inputs.input_ids[[first - 1, last + 1]].tolist() == [boi, eoi]
        else:
            assert boi is None


def test_documents_are_their_parts_in_order(any_model):
    """Put together here from each part's own ids."""
    tokenizer, name = any_model.tokenizer, any_model.name
    documents = [
        ["Only words."],
        [picture(40, 40), " after it"],
        [picture(90, 30), "one ", "and two", picture(28, 28), picture(30, 70), "three"],
    ]
    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    frame = [tokenizer.convert_tokens_to_ids(token) for token in ("<racm3:break>", "<eoss>")]
    before, after = (frame[:1], frame[1:]) if name.startswith("chameleon") else ([], [])
    for parts in documents:
        expected, text = [], ""
        for part in [*parts, None]:
            if isinstance(part, str):
                text += part
                continue
            if part is not None and any_model.family.takes_images:
                expected += tokenizer(text, add_special_tokens=False)["input_ids"]
                expected += before + [placeholder] * image_tokens(name, part.size) + after
                text = ""
        expected += tokenizer(text, add_special_tokens=False)["input_ids"]
        begin = [] if name in ("qwen2", "gpt_neox") else [tokenizer.convert_tokens_to_ids("<s>")]
        inputs = any_model.builder.build_document(parts)
        assert inputs.input_ids.tolist() == begin + expected
        assert inputs.is_image.tolist() == [token == placeholder for token in begin + expected]
        assert any_model.builder.bos_token_id == (None if name == "qwen2" else tokenizer.convert_tokens_to_ids("<s>"))


def test_a_documents_pictures_are_those_of_each_image_alone(seeing):
    images = [picture(90, 30, 1), picture(28, 28, 2), picture(30, 70, 3)]
    alone = [seeing.builder.build_document([image]).tensors for image in images]
    together = seeing.builder.build_document(images).tensors
    assert together.keys() == alone[0].keys()
    for name, tensor in together.items():
        assert torch.equal(tensor, torch.cat([tensors[name] for tensors in alone]))
    assert not seeing.builder.build_document(["words"]).tensors


def test_text_models_leave_images_out(text_model):
    assert not text_model.family.takes_images
    with_image = text_model.builder.build_document(["a b", picture(50, 50), " c"])
    assert torch.equal(with_image.input_ids, text_model.builder.build_document(["a b c"]).input_ids)
    # Without a chat template a conversation is two lines.
    sample = text_model.builder.build(picture(3000, 1), "a b", "c")
    assert torch.equal(sample.input_ids, text_model.builder.build_document(["a b\nc"]).input_ids)
    for inputs in (with_image, sample):
        assert torch.equal(inputs.is_image, torch.zeros(len(inputs.input_ids), dtype=torch.bool))
        assert not inputs.tensors


@pytest.mark.parametrize(("bos", "begins"), [("added", True), ("kept", False), ("none", False)])
@pytest.mark.parametrize("ending", [False, True])
def test_documents_begin_with_one_bos_if_the_tokenizer_adds_it_and_never_end(tmp_path, bos, begins, ending):
    write_text_model(tmp_path, "llama")
    vocabulary = write_tokenizer(tmp_path, bos)
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    if ending:
        single = "<s> $A </s>" if begins else "$A </s>"
        from tokenizers.processors import TemplateProcessing

        tokens = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=tokens)
        tokenizer.save_pretrained(tmp_path)
    info = inspect_model(str(tmp_path))
    ids = info.family.load_builder(info).build_document(["a word"]).input_ids.tolist()
    assert ids == [vocabulary["<s>"]] * begins + tokenizer("a word", add_special_tokens=False)["input_ids"]


TEMPLATES = {
    "strings": "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\\n' }}{% endfor %}",
    "lists": "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'][0]['text'] + '\\n' }}{% endfor %}",
    "bos": "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\\n' }}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_text_models_use_their_tokenizers_template(tmp_path, template):
    write_text_model(tmp_path, "llama")
    write_tokenizer(tmp_path, chat_template=TEMPLATES[template])
    info = inspect_model(str(tmp_path))
    builder = info.family.load_builder(info)
    decoded = [builder.processor.decode(builder.build(picture(9, 9), "q?", r).input_ids) for r in (None, "a.")]
    assert decoded == ["<s>[user] q?\n", "<s>[user] q?\n[assistant] a.\n"]


def test_a_template_that_loses_a_turn_is_refused(tmp_path):
    write_text_model(tmp_path, "llama")
    write_tokenizer(tmp_path, chat_template="{{ messages[0]['content'] }}")
    info = inspect_model(str(tmp_path))
    with pytest.raises(ConfigurationError, match="chat template does not keep question and response"):
        info.family.load_builder(info)


def test_special_tokens_in_text_are_refused(one_of_each):
    special = ["<s>", "</s>", "<image>"]
    if one_of_each.name == "llava-gemma":
        special += ["<start_of_turn>"]
    if one_of_each.name == "chameleon":
        special += ["<racm3:break>", "<eoss>", "<reserved08706>", code_name(CODES - 1)]
    for token in special:
        text = f"see {token} here"
        message = re.escape(f"spells out the special token {token}")
        for question, response in ((text, "a"), ("q", text)):
            with pytest.raises(ReservedToken, match=f"the (question|response) {message}"):
                one_of_each.builder.build(picture(50, 50), question, response)
        for parts in ([text], ["a", text, "b"], [token[:2], token[2:]]):
            with pytest.raises(ReservedToken, match=f"the text {message}"):
                one_of_each.builder.build_document(parts)
    one_of_each.builder.build_document(["a < b <im s> IMG <reserve"])


def test_what_is_too_long_is_refused(one_of_each, monkeypatch):
    builder = one_of_each.builder
    for make in (lambda text: builder.build(picture(50, 50), text, "a"), lambda text: builder.build_document([text])):
        assert len(make("x z " * 30).input_ids) <= 500
        with pytest.raises(TooLong, match="tokens; the model's context holds 500"):
            make("x z " * 400)
    monkeypatch.setattr(type(builder), "_encoded", lambda *_, **__: pytest.fail("tokenized"))
    with pytest.raises(TooLong, match=r"characters, so at least .* holds 500"):
        builder.build_document(["zq " * 200_000, "zq " * 200_000])
    if one_of_each.family.takes_images:
        with pytest.raises(TooLong, match="image tokens; the model's context holds 500"):
            builder.build_document([picture(30, 30)] * 40)


def test_a_document_without_a_token_is_no_document(load):
    with pytest.raises(SampleError, match="no token"):
        load("qwen2").builder.build_document([])


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (5, 700)])
def test_images_of_which_nothing_would_be_seen_are_refused(seeing, size):
    with pytest.raises(ImageShape, match="too narrow"):
        seeing.builder.build(picture(*size), "q", "a")
    with pytest.raises(ImageShape, match="too narrow"):
        seeing.builder.build_document([picture(30, 30), picture(*size)])


LACKING = {
    "llava_next-mistral": ["image_newline", "multi_modal_projector.linear_1.bias"],
    "llava-gemma": ["multi_modal_projector.linear_1.bias", "layers.0.mlp.up_proj.weight"],
    "chameleon": ["vqmodel.quantize.embedding.weight", "layers.1.self_attn.q_norm.bias"],
    "gpt_neox": ["layers.0.mlp.dense_4h_to_h.weight", "embed_in.weight"],
}


@pytest.mark.parametrize(("name", "weight"), [(name, weight) for name, names in LACKING.items() for weight in names])
def test_missing_weights_are_refused_by_name(load, tmp_path, name, weight):
    loaded = load(name)
    copy = shutil.copytree(loaded.path, tmp_path / "model")
    tensors = load_file(copy / "model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(weight)}
    assert len(kept) == len(tensors) - 1
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    info = inspect_model(str(copy))
    with pytest.raises(ConfigurationError, match=f"lacks weights: .*{re.escape(weight)}"):
        info.family.load_model(info, 1, torch.float32, "cpu")
    with pytest.raises(ConfigurationError, match=f"lacks weights: .*{re.escape(weight)}"):
        info.family.load_whole(info, torch.float32, "cpu")


def test_a_whole_model_without_its_head_is_refused(load, tmp_path):
    copy = shutil.copytree(load("mistral").path, tmp_path / "model")
    tensors = load_file(copy / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    info = inspect_model(str(copy))
    info.family.load_model(info, 1, torch.float32, "cpu")
    with pytest.raises(ConfigurationError, match=r"lacks weights: lm_head\.weight"):
        info.family.load_whole(info, torch.float32, "cpu")


@pytest.mark.parametrize("part", ["whole", "cut"])
def test_several_devices_hold_every_part_once_and_in_order(one_of_each, part):
    """Which cannot be run here: the map alone is checked."""
    model = one_of_each.whole if part == "whole" else one_of_each.whole.base_model
    devices = ["cuda:0", "cuda:1", "cuda:2"]
    parts = device_map(model, devices)
    home = {}
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        (home[name],) = [device for part, device in parts.items() if name == part or name.startswith(f"{part}.")]
    blocks = [[home[n] for n in home if f"layers.{index}." in n and "vision" not in n] for index in range(N_LAYERS)]
    assert all(len(set(block)) == 1 for block in blocks)
    assert [block[0] for block in blocks] == sorted(block[0] for block in blocks)
    assert all(device == devices[0] for name, device in home.items() if "embed" in name or "head" in name)
    assert blocks[-1][0] == next(home[n] for n in home if re.search(r"(^|\.)(norm|final_layer_norm)\.weight", n))


def test_a_folder_without_a_tokenizer_is_refused(load, tmp_path):
    for name, what in (("mistral", "tokenizer"), ("chameleon", "processor"), ("llava-gemma", "processor")):
        copy = shutil.copytree(load(name).path, tmp_path / name)
        (copy / "tokenizer.json").unlink()
        info = inspect_model(str(copy))
        with pytest.raises(ConfigurationError, match=f"has no whole {what}"):
            info.family.load_builder(info)


def test_an_unknown_type_is_refused_with_those_that_are_known(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    known = "llava_next, llava, chameleon, mistral, llama, gemma, gemma2, qwen2, gpt_neox"
    with pytest.raises(ConfigurationError, match=f"its type is bert; these are known: {known}"):
        inspect_model(str(tmp_path))


def test_a_response_follows_its_prompt_and_its_likelihood_is_that_of_the_whole_model(seeing):
    model = seeing
    said = [("What is this?", "Noise, and a long answer about it."), ("Why?", "No."), ("And that?", "Red or blue")]
    inputs = [model.builder.build(picture(64, 48, n), *each) for n, each in enumerate(said)]
    prompts = [model.builder.build_prompt(picture(64, 48, n), question) for n, (question, _) in enumerate(said)]
    whole = model.family.load_whole(model.info, torch.float32, "cpu")
    packed = pack(inputs)
    reading = whole.read(packed, 1)
    cut = model.family.load_model(model.info, 1, torch.float32, "cpu")
    assert torch.equal(reading.hidden, cut.hidden_states(packed))
    for each, prompt, (_, response), likely in zip(inputs, prompts, said, reading.log_probabilities, strict=True):
        length, start = len(each.input_ids), len(each.input_ids) - each.n_response
        assert prompt.n_response == 0
        assert each.input_ids[:start].tolist() == prompt.input_ids[:start].tolist()
        assert start >= len(prompt.input_ids) - 1  # the template's last character may join the response's first token
        assert response in model.builder.decode(each.input_ids[start:])
        logits = model.run(each)[0].logits[0].double()
        expected = [logits[at - 1].log_softmax(-1)[each.input_ids[at]].item() for at in range(start, length)]
        assert likely.tolist() == pytest.approx(expected, abs=2e-5)


def test_answers_are_the_likeliest_tokens_one_after_another_whatever_the_batch(seeing):
    model = seeing
    whole = model.family.load_whole(model.info, torch.float32, "cpu")
    prompts = [
        model.builder.build_prompt(picture(*size, 7), question)
        for size, question in (((64, 48), "What is this, and what stands beside it?"), ((30, 60), "Why?"))
    ]
    end = model.whole.generation_config.eos_token_id
    end = model.whole.config.get_text_config().eos_token_id if end is None else end
    answers = whole.generate(prompts, 6)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, expected = prompt.input_ids, []
        for _ in range(6):
            token = int(model.run(replace(prompt, input_ids=ids))[0].logits[0, -1].argmax())
            if token == end:
                break
            expected.append(token)
            ids = torch.cat([ids, torch.tensor([token])])
        assert answer.tolist() == expected
    assert any(len(answer) for answer in answers)


def test_tokens_read_as_the_text_that_they_are_of(demo_builder):
    """Also by a tokenizer that, as Llama's and Mistral's, strips the space of a token that is decoded by itself."""
    words = ["<s>", "▁Describe", "▁the", "▁image", ".", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "</s>"]
    own = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}))
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    builder = replace(demo_builder, processor=hf.PreTrainedTokenizerFast(tokenizer_object=own))
    texts = builder.token_texts(torch.arange(1, 5))
    assert texts == ["Describe", " the", " image", "."]
    assert len(builder.token_texts(torch.arange(len(words)))) == len(words)
    inputs = demo_builder.build(picture(56, 56), "What is this?", "Noise, all over: 漢字 😀.")
    assert "What is this? [/INST] Noise, all over" in "".join(demo_builder.token_texts(inputs.input_ids))
