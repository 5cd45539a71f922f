"""What the families share on the CPU side: texts and images into token ids, with the positions of image tokens."""

import contextlib
import hashlib
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from threading import Lock
from typing import Any, Protocol

import torch
import transformers  # whose attributes are imported when they are used: to look at a config takes no model's code
from jaxtyping import Int
from PIL.Image import Image
from torch import Tensor

from curate.errors import ConfigurationError, EmptyText, ImageShape, ReservedToken, TooLong, first_line
from curate.models.family import ModelInfo
from curate.models.inputs import ModelInputs
from curate.models.patches import Patches, View

# Each takes up to 7 MB.
REMEMBERED_IMAGES = 8


class Turns(Protocol):
    """From a question, and a response if there is one, the text of the conversation."""

    def __call__(self, question: str, response: str | None, answer_next: bool = False) -> str:
        """With `answer_next`, it ends with what the template writes before an answer."""
        ...


def pixel_values(encoded: Mapping[str, Any], images: Sequence[Image]) -> dict[str, Tensor]:
    """The images' pixels, where each is one picture for the model."""
    return {"pixel_values": encoded["pixel_values"]}


@dataclass(frozen=True)
class Images:
    """How images stand in the texts and inputs of a model.

    Attributes:
        token: the placeholder of one image in a text.
        token_id: what `input_ids` holds where an image token is.
        count: how many image tokens the model makes of an image; raises ImageShape.
        views: where in an image its tokens look; raises ImageShape.
        tensors: from what the processor returns, and the images, what the model takes beside the ids.
    """

    token: str
    token_id: int
    count: Callable[[Image], int]
    views: Callable[[Image], tuple[View, ...]]
    tensors: Callable[[Mapping[str, Any], Sequence[Image]], dict[str, Tensor]] = pixel_values


@dataclass(frozen=True)
class Builder:
    """Tokenizer and image processor of a model.

    Attributes:
        processor: of a text model, its tokenizer.
        encode: the call of it.
        images: None for a text model, which leaves images out.
        memory: of the last images; None for a text model.
        context: the most tokens that the model takes.
        bos_token_id, eos_token_id: the tokenizer's, if it has them.
        begins_with_bos: whether the tokenizer puts it before a text.
        special_tokens: which no text may spell out.
        stems: how they begin; there can be thousands of tokens, and nearly no text holds even a stem.
        longest_token: of the vocabulary, in characters.
    """

    processor: Any
    encode: Callable[..., Mapping[str, Any]]
    turns: Turns
    images: Images | None
    memory: "ImageMemory | None"
    context: int
    bos_token_id: int | None
    eos_token_id: int | None
    begins_with_bos: bool
    special_tokens: tuple[str, ...]
    stems: tuple[str, ...]
    longest_token: int

    def build(self, image: Image, question: str, response: str | None) -> ModelInputs:
        """Inputs by the model's chat template and one processor call.

        Raises:
            ReservedToken: a text spells out a special token.
            ImageShape: the image is too narrow for the model.
            TooLong: more tokens than the context holds.
        """
        for name, text in (("question", question), ("response", response or "")):
            self._check(name, text)
        text = self.turns(question, response)
        inputs = self._inputs(text, [image])
        return inputs if response is None else replace(inputs, n_response=self._response_tokens(question, text))

    def build_prompt(self, image: Image, question: str) -> ModelInputs:
        """The user turn and what the template writes before an answer; errors as of `build`."""
        self._check("question", question)
        return self._inputs(self.turns(question, None, answer_next=True), [image])

    def patches(self, image: Image) -> Patches:
        """Where in an image its tokens look; errors as of `build`."""
        assert self.images is not None, "a text model sees no patches"
        return Patches(image.size, self.images.views(image))

    def mean_colour(self) -> tuple[int, int, int]:
        """The colour whose pixels are 0 for the model, as near as whole levels come."""
        own = self.processor.image_processor
        scale = own.rescale_factor if own.do_rescale else 1
        red, green, blue = (round(mean / scale) for mean in (own.image_mean if own.do_normalize else (0, 0, 0)))
        return red, green, blue

    def token_texts(self, ids: Int[Tensor, " tokens"]) -> list[str]:
        """The text of each token by itself; a part of a character is a replacement character."""
        decode = partial(self._tokenizer.decode, clean_up_tokenization_spaces=False)
        texts, before = [], None
        for token in ids.tolist():
            # Many tokenizers strip the space that a text begins with, and so that of a token by itself.
            alone = decode([token])
            follows = "" if before is None else decode([before])
            both = alone if before is None else decode([before, token])
            texts.append(both[len(follows) :] if both.startswith(follows) else alone)
            before = token
        return texts

    def decode(self, ids: Int[Tensor, " tokens"]) -> str:
        """The text of token ids, without special tokens and without white space around it."""
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()

    @property
    def _tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    def _response_tokens(self, question: str, text: str) -> int:
        """How many tokens of a conversation's text follow its prompt: what training on the response alone learns from.

        Counted on the text, where an image is one placeholder on either side.
        """
        # One by one, for the tokenizer would hand two texts to threads, which costs more than they take.
        texts = self.turns(question, None, answer_next=True), text
        prompt, whole = (self._tokenizer(each, add_special_tokens=False)["input_ids"] for each in texts)
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
        return len(whole) - sum(1 for _ in alike)

    def build_document(self, parts: Sequence[str | Image]) -> ModelInputs:
        """Inputs of texts and images in their order, with nothing between them; BOS first if the tokenizer does so.

        Raises:
            ReservedToken, ImageShape, TooLong: as `build`.
            EmptyText: no token at all.
        """
        self._check("text", "".join(part for part in parts if isinstance(part, str)))
        placeholder = "" if self.images is None else self.images.token
        text = "".join(part if isinstance(part, str) else placeholder for part in parts)
        return self._inputs(text, [part for part in parts if not isinstance(part, str)])

    def _inputs(self, text: str, images: Sequence[Image]) -> ModelInputs:
        """Inputs of a text with a placeholder for each image."""
        if self.images is None:
            input_ids = self._ids(self._encoded(text))
            is_image, tensors = torch.zeros_like(input_ids, dtype=torch.bool), {}
        else:
            expected = sum(map(self.images.count, images))
            if expected > self.context:
                raise TooLong(f"{expected:,} image tokens; the model's context holds {self.context:,}")
            encoded = self._encoded(text, images=list(images) or None)
            input_ids = self._ids(encoded)
            is_image = input_ids == self.images.token_id
            if (made := int(is_image.sum())) != expected:
                sizes = ", ".join(f"{image.width} × {image.height}" for image in images)
                what = f"an image of {sizes} makes" if len(images) == 1 else f"images of {sizes} make"
                raise ImageShape(f"{what} {made} image tokens for the processor but {expected} for the model")
            tensors = self.images.tensors(encoded, images) if images else {}
        if len(input_ids) > self.context:
            raise TooLong(f"{len(input_ids):,} tokens; the model's context holds {self.context:,}")
        if not len(input_ids):
            raise EmptyText("the text has no token")
        image = self.memory.hash(images[0]) if self.memory is not None and len(images) == 1 else None
        return ModelInputs(input_ids, is_image, tensors, image=image)

    def _encoded(self, text: str, **given: Any) -> Mapping[str, Any]:
        return self.encode(text=[text], add_special_tokens=False, return_tensors="pt", **given)

    def _ids(self, encoded: Mapping[str, Any]) -> Int[Tensor, " tokens"]:
        """The ids after one BOS: templates write it or leave it to the tokenizer, which may add an EOS as well."""
        ids = encoded["input_ids"][0].long()
        if self.begins_with_bos and ids[:1].tolist() != [self.bos_token_id]:
            ids = torch.cat([torch.tensor([self.bos_token_id]), ids])
        return ids

    def _check(self, name: str, text: str) -> None:
        """Refuse what the tokenizer would take for control tokens, or would need minutes and gigabytes to count."""
        for token in self.special_tokens if any(stem in text for stem in self.stems) else ():
            if token in text:
                raise ReservedToken(f"the {name} spells out the special token {token}")
        # No token covers more characters than the longest has. Templates may strip a text, and tokenizers may compose
        # its accents (NFC), but nothing else is taken away before it is cut into tokens.
        characters = len(unicodedata.normalize("NFC", text.strip()))
        if characters > self.context * self.longest_token:
            raise TooLong(
                f"the {name} has {characters:,} characters, so at least {characters // self.longest_token:,} tokens; "
                f"the model's context holds {self.context:,}"
            )


def builder(
    info: ModelInfo,
    processor: Any,
    turns: Turns,
    images: Images | None,
    encode: Callable[..., Mapping[str, Any]] | None = None,
    reserved: Iterable[str] = (),
) -> Builder:
    """A builder, with what the tokenizer says of itself.

    Args:
        encode: the call of the processor, where it is not the plain one.
        reserved: what no text may spell out beside the tokenizer's special tokens and the image's placeholder.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*tokenizer.all_special_tokens, *reserved, *([images.token] if images else [])}
    return Builder(
        processor=processor,
        encode=encode or processor,
        turns=turns,
        images=images,
        memory=None if images is None else remember_images(processor.image_processor),
        context=info.context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        begins_with_bos=tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id],
        special_tokens=tuple(sorted(special)),
        stems=tuple(sorted({token[:3] for token in special})),
        longest_token=max(map(len, tokenizer.get_vocab())),
    )


def load_processor(kind: str, info: ModelInfo) -> tuple[Any, Any]:
    """A model's processor and config; the image processor is PIL's, so that every machine makes the same pixels.

    Args:
        kind: the processor's class in transformers.

    Raises:
        ConfigurationError: the folder has no whole processor.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(info.path, local_files_only=True)
        processor = getattr(transformers, kind).from_pretrained(info.path, backend="pil", local_files_only=True)
    # A tokenizer or processor file may be missing, damaged, or need a library that is not there.
    except Exception as error:
        raise ConfigurationError(f"{info.path} has no whole processor: {first_line(error)}") from error
    if processor.image_token_id != config.image_token_id:
        raise ConfigurationError(
            f"{info.path}: {processor.image_token} is token {processor.image_token_id} for the tokenizer but "
            f"{config.image_token_id} for the model"
        )
    return processor, config


class ImageMemory:
    """An image processor's call, which makes the same of the last few images again without work.

    A sample's texts are about one image, and often its neighbours' are, too.
    """

    def __init__(self, preprocess: Callable[..., Any]) -> None:
        self._preprocess = preprocess
        self._made: OrderedDict[str, Any] = OrderedDict()
        self._last: tuple[Image, str] | None = None
        self._lock = Lock()  # trainings share a builder among threads

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], Image):
            return self._preprocess(images, *args, **kwargs)
        key = f"{self.hash(images[0])} {args} {kwargs}"
        with self._lock:
            made = self._made.get(key)
        if made is None:
            made = self._preprocess(images, *args, **kwargs)
        with self._lock:
            self._made[key] = made
            self._made.move_to_end(key)
            while len(self._made) > REMEMBERED_IMAGES:
                self._made.popitem(last=False)
        return made

    def hash(self, image: Image) -> str:
        """SHA-256 over the size and pixels of an RGB image."""
        last = self._last
        if last is None or last[0] is not image:
            digest = hashlib.sha256(f"{image.mode} {image.size} ".encode())
            digest.update(image.tobytes())
            last = self._last = (image, digest.hexdigest())
        return last[1]


def remember_images(image_processor: Any) -> ImageMemory:
    """Let an image processor remember. Its class changes, not its attributes, which are written where it is saved."""
    memory, kind = ImageMemory(image_processor.preprocess), type(image_processor)

    def preprocess(_self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        return memory(images, *args, **kwargs)

    image_processor.__class__ = type(kind.__name__, (kind,), {"preprocess": preprocess, "__module__": kind.__module__})
    return memory


def template_owner(processor: Any) -> Any:
    """What has a chat template: the processor, else its tokenizer, else None."""
    return next((owner for owner in (processor, processor.tokenizer) if owner.chat_template), None)


def chat_turns(info: ModelInfo, owner: Any, image_token: str | None) -> Turns:
    """One user turn, then one of the assistant's, by a chat template.

    A template takes a turn's parts as a list, or one string, as those of text models do. An image comes first.

    Args:
        owner: of the template, a processor or tokenizer.
        image_token: None for a text model.

    Raises:
        ConfigurationError: the template loses the question, the response or the image.
    """

    def listed(question: str, response: str | None, answer_next: bool = False) -> str:
        image = [] if image_token is None else [{"type": "image"}]
        said = [[*image, {"type": "text", "text": question}]]
        said += [] if response is None else [[{"type": "text", "text": response}]]
        return rendered(said, answer_next)

    def plain(question: str, response: str | None, answer_next: bool = False) -> str:
        asked = question if image_token is None else f"{image_token}\n{question}"
        return rendered([asked] if response is None else [asked, response], answer_next)

    def rendered(said: Sequence[Any], answer_next: bool) -> str:
        turns = [{"role": role, "content": what} for role, what in zip(("user", "assistant"), said, strict=False)]
        return owner.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer_next)

    for turns in (plain, listed) if image_token is None else (listed, plain):
        # A template is a program: given what it was not written for, it may raise anything, or print a list.
        with contextlib.suppress(Exception):
            text = turns("Which?", "That one.")
            images = 0 if image_token is None else text.count(image_token)
            if "Which?" in text and "That one." in text and images == int(image_token is not None):
                return turns
    what = "question and response" if image_token is None else "image, question and response"
    raise ConfigurationError(f"{info.path}: its chat template does not keep {what}")


def square(side: int, n_tokens: int) -> Callable[[Image], int]:
    """The count of a model that sees each image scaled into one square of `side` × `side` patches.

    An image that fills less than one patch's width of the square is refused: nothing of it is left to see, and where
    the shorter edge is scaled to the square's, the longer would take gigabytes.
    """

    def count(image: Image) -> int:
        if max(image.size) > side * min(image.size):
            raise ImageShape(
                f"an image of {image.width} × {image.height} is too narrow: scaled into the model's square of "
                f"{side} × {side} patches, it is less than one patch wide"
            )
        return n_tokens

    return count
