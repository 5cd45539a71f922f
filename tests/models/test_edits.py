"""Edits of the residual stream, against a plain loop: transformers' whole model, no cache, one prompt at a time."""

from dataclasses import replace

import pytest
import torch

from curate.models.packing import pack
from tests.models.small import N_LAYERS, picture
from tests.models.test_families import Loaded, tensor_of

FAMILIES = ["llava_next-mistral", "llava-llama", "llava-gemma", "chameleon"]
LAYER, STEPS = 2, 6
DIRECTION = 0.4 * torch.randn(32, generator=torch.Generator().manual_seed(3))


def edit(hidden, is_image):
    """Other things at image and text tokens, each token by itself."""
    return torch.where(is_image[:, None], 0.3 * hidden, hidden + hidden.norm(dim=1, keepdim=True) * DIRECTION)


def identity(hidden, _is_image):
    return hidden


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    return Loaded(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def whole(loaded):
    return loaded.family.load_whole(loaded.info, torch.float32, "cpu")


@pytest.fixture(scope="module")
def prompts(loaded):
    """Of different lengths, so that a batch of them is padded."""
    asked = [(picture(64, 48, 1), "What?"), (picture(25, 60, 2), "What is it, in a few words?"), (picture(50, 50), "?")]
    return [loaded.builder.build_prompt(image, question) for image, question in asked]


def edited_logits(loaded, inputs, edit):
    """Transformers' own forward pass with a hook of this test's own."""

    def hook(_module, _inputs, output):
        stream = edit(tensor_of(output)[0], inputs.is_image)[None]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    handle = loaded.decoder.layers[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return loaded.whole(input_ids=inputs.input_ids[None], **inputs.tensors, use_cache=False).logits[0]
    finally:
        handle.remove()


def with_answer(prompt, ids):
    said = torch.tensor(ids, dtype=torch.int64)
    is_image = torch.cat([prompt.is_image, torch.zeros(len(said), dtype=torch.bool)])
    return replace(prompt, input_ids=torch.cat([prompt.input_ids, said]), is_image=is_image, n_response=len(said))


def by_hand(loaded, prompt, edit, ends):
    """Greedy, with all of the text run again for each token."""
    said = []
    while len(said) < STEPS:
        token = int(edited_logits(loaded, with_answer(prompt, said), edit)[-1].argmax())
        if token in ends:
            break
        said.append(token)
    return said


@pytest.fixture(scope="module")
def ends(whole):
    given = whole.model.generation_config.eos_token_id
    return [given] if isinstance(given, int) else list(given or ())


def test_answers_under_an_edit_are_those_of_a_plain_loop(loaded, whole, prompts, ends):
    expected = [by_hand(loaded, prompt, edit, ends) for prompt in prompts]
    assert [ids.tolist() for ids in whole.generate(prompts, STEPS, LAYER, edit)] == expected
    # The edit matters: without it the answers are others.
    without = [by_hand(loaded, prompt, identity, ends) for prompt in prompts]
    assert [ids.tolist() for ids in whole.generate(prompts, STEPS)] == without
    assert all(one != other for one, other in zip(expected, without, strict=True))


def test_batched_answers_are_those_of_each_prompt_alone(whole, prompts):
    together = whole.generate(prompts, STEPS, LAYER, edit)
    for prompt, answer in zip(prompts, together, strict=True):
        assert torch.equal(whole.generate([prompt], STEPS, LAYER, edit)[0], answer)


def test_an_edit_is_given_each_texts_own_tokens_and_then_each_that_is_said(loaded, whole, prompts):
    cut = loaded.family.load_model(loaded.info, LAYER, torch.float32, "cpu")
    seen = []

    def watch(hidden, is_image):
        seen.append((hidden.clone(), is_image))
        return hidden

    whole.generate(prompts, STEPS, LAYER, watch)
    for prompt, (hidden, is_image) in zip(prompts, seen, strict=False):
        assert torch.equal(is_image, prompt.is_image)
        torch.testing.assert_close(hidden, cut.hidden_states(pack([prompt])), atol=1e-4, rtol=1e-4)
    assert {hidden.shape for hidden, _ in seen[len(prompts) :]} == {(1, 32)}
    assert not any(bool(is_image.any()) for _, is_image in seen[len(prompts) :])


def test_an_edit_that_changes_nothing_changes_no_bit(whole, prompts):
    for one, other in zip(whole.generate(prompts, STEPS), whole.generate(prompts, STEPS, LAYER, identity), strict=True):
        assert torch.equal(one, other)
    packed = pack([with_answer(prompt, [5, 9, 7]) for prompt in prompts])
    plain, same = whole.read(packed, LAYER), whole.read(packed, LAYER, identity)
    for one, other in zip(plain.log_probabilities, same.log_probabilities, strict=True):
        assert torch.equal(one, other)


def test_likelihoods_under_an_edit_are_those_of_the_whole_models_logits(loaded, whole, prompts):
    """Also of two questions about one image, whose tokens are run once."""
    twice = loaded.builder.build_prompt(picture(64, 48, 1), "What else is there in this picture of nothing but noise?")
    texts = [with_answer(prompt, [5 + n, 9, 7][: n + 1]) for n, prompt in enumerate([*prompts[:2], twice])]
    reading = whole.read(pack(texts), LAYER, edit)
    for text, found in zip(texts, reading.log_probabilities, strict=True):
        own = edited_logits(loaded, text, edit)
        torch.testing.assert_close(whole.logits(text, LAYER, edit), own, atol=1e-4, rtol=1e-4)
        first = len(text.input_ids) - text.n_response
        likely = own.log_softmax(-1)
        expected = torch.stack([likely[place - 1, text.input_ids[place]] for place in range(first, len(own))])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_hidden_states_that_are_read_are_those_before_the_edit(whole, prompts):
    packed = pack([with_answer(prompts[0], [5])])
    assert torch.equal(whole.read(packed, LAYER, edit).hidden, whole.read(packed, LAYER).hidden)


@pytest.mark.parametrize("layer", [0, N_LAYERS - 1])
def test_no_hook_is_left_behind(whole, prompts, layer):
    def fails(hidden, is_image):
        raise ZeroDivisionError

    def hooks():
        return [list(module._forward_hooks) for module in whole.model.modules()]

    before, packed = whole.generate(prompts, STEPS), pack([with_answer(prompts[0], [5])])
    own = hooks()  # transformers has some
    for run in (
        lambda: whole.generate(prompts, STEPS, layer, fails),
        lambda: whole.read(packed, layer, fails),
        lambda: whole.logits(prompts[0], layer, fails),
    ):
        with pytest.raises(ZeroDivisionError):
            run()
    assert hooks() == own
    assert all(torch.equal(one, other) for one, other in zip(before, whole.generate(prompts, STEPS), strict=True))
