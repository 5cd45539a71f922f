"""What every family of models provides: inputs from samples and documents, hidden states and logits from inputs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Tensor

from curate.models.inputs import ModelInputs
from curate.models.packing import Packed
from curate.models.patches import Patches

# Of a text's tokens, from the residual stream and which of them are image tokens, what is to stand in its place.
Edit = Callable[[Float[Tensor, "tokens d_model"], Bool[Tensor, " tokens"]], Float[Tensor, "tokens d_model"]]


class Reading(NamedTuple):
    """What one forward pass of a whole model says of packed texts.

    Attributes:
        hidden: the residual stream after the hook layer.
        log_probabilities: for each text, of each token of its response, given all before it.
    """

    hidden: Float[Tensor, "tokens d_model"]
    log_probabilities: list[Float[Tensor, " response"]]


Read = Callable[[Packed], Reading]


class InputBuilder(Protocol):
    """The CPU side: tokenizer and image processor. Families of text models leave images out."""

    @property
    def bos_token_id(self) -> int | None:
        """The tokenizer's token for the beginning of a sequence, if it has one."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The tokenizer's token for the end of a sequence, if it has one."""
        ...

    def build(self, image: Image, question: str, response: str | None) -> ModelInputs:
        """One user turn of image and question, then an assistant turn if there is a response.

        Raises:
            SampleError: the sample does not fit the model.
        """
        ...

    def build_prompt(self, image: Image, question: str) -> ModelInputs:
        """What a model is given to answer: the user turn, and what the template writes before an answer.

        Raises:
            SampleError: the sample does not fit the model.
        """
        ...

    def decode(self, ids: Int[Tensor, " tokens"]) -> str:
        """The text of token ids, without special tokens and without white space around it."""
        ...

    def patches(self, image: Image) -> Patches:
        """Where in an image its tokens look.

        Raises:
            ImageShape: the image is too narrow for the model.
        """
        ...

    def mean_colour(self) -> tuple[int, int, int]:
        """The colour whose pixels are 0 for the model, as near as whole levels come."""
        ...

    def token_texts(self, ids: Int[Tensor, " tokens"]) -> list[str]:
        """The text of each token by itself, special tokens too; a part of a character is a replacement character."""
        ...

    def build_document(self, parts: Sequence[str | Image]) -> ModelInputs:
        """Texts and images in their order as one sequence: no chat template, and no token that ends it.

        It begins with BOS where the tokenizer begins a text with one.

        Raises:
            SampleError: the document does not fit the model.
        """
        ...


class CutModel(Protocol):
    """The device side: the model up to its hook layer."""

    def hidden_states(self, packed: Packed) -> Float[Tensor, "tokens d_model"]:
        """The residual stream after the hook layer."""
        ...

    def hidden_states_after(
        self, packed: Packed, layers: Collection[int]
    ) -> dict[int, Float[Tensor, "tokens d_model"]]:
        """The residual stream after each of some blocks, from one forward pass."""
        ...

    def tower(self, packed: Packed) -> Float[Tensor, "images patches width"]:
        """What the vision tower itself says of each image's patches, at its lowest resolution."""
        ...


class WholeModel(Protocol):
    """The device side: the model with all its blocks and its head."""

    def logits(
        self, inputs: ModelInputs, hook_layer: int | None = None, edit: Edit | None = None
    ) -> Float[Tensor, "tokens vocabulary"]:
        """The model's logits, with `edit` in place of the residual stream after block `hook_layer`, if given."""
        ...

    def read(self, packed: Packed, hook_layer: int, edit: Edit | None = None) -> Reading:
        """One forward pass: hidden states, as of a cut model, and the likelihood of the texts' responses.

        With `edit`, which takes texts packed as they are, what it makes of these hidden states stands in their place.
        """
        ...

    def generate(
        self, batch: Sequence[ModelInputs], max_new_tokens: int, hook_layer: int | None = None, edit: Edit | None = None
    ) -> list[Int[Tensor, " answer"]]:
        """The model's answers to prompts, always its likeliest token, each up to and without the end.

        With `edit`, what it makes of each text's residual stream after block `hook_layer` stands in its place: of the
        prompt at once, then of each token that is said.
        """
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before its weights are loaded.

    Attributes:
        context: the most tokens that it takes.
        sha256: over config, tokenizer, processor and weights.
    """

    name: str
    path: Path
    family: "Family"
    d_model: int
    n_layers: int
    context: int
    sha256: str


@dataclass(frozen=True)
class Family:
    """A model family: how to recognise, describe and load it.

    Attributes:
        model_type: `model_type` in the model's config.json.
        text_config: the part of config.json that describes the text model; raises ConfigurationError if unfit.
        n_parameters: of (model, hook layer), what is below the cut: how many there are to load.
        load_builder: tokenizer and processor from the model's folder.
        load_model: from (model, hook layer, dtype, device), only what is below the cut.
        load_whole: from (model, dtype, device), all of it.
        takes_images: whether its models see images; those that do not are text models.
    """

    model_type: str
    text_config: Callable[[Mapping[str, object]], Mapping[str, object]]
    n_parameters: Callable[[ModelInfo, int], int]
    load_builder: Callable[[ModelInfo], InputBuilder]
    load_model: Callable[[ModelInfo, int, torch.dtype, str], CutModel]
    load_whole: Callable[[ModelInfo, torch.dtype, str], WholeModel]
    takes_images: bool
