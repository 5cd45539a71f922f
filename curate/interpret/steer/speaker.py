"""A model that answers about images while hidden states are edited along the directions of features."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from PIL.Image import Image
from torch import Tensor

from curate.errors import ConfigurationError, RunStopped, TooLong
from curate.harvest.activations import learned_from
from curate.interpret.steer.edits import rotated, steered
from curate.interpret.steer.job import EditSpec
from curate.interpret.steer.record import Fired, Unit
from curate.interpret.subject import Subject
from curate.models.family import Edit, InputBuilder, WholeModel
from curate.models.inputs import ModelInputs
from curate.models.packing import pack
from curate.sae.decoder import Decoder, load_decoder
from curate.sae.dictionary import Dictionary
from curate.sae.firing import activations_of
from curate.sae.load import load_dictionary
from curate.scoring.memory import is_out_of_memory


class Said(NamedTuple):
    """An answer: its token ids without the end, its text, and whether it came to no end."""

    ids: Int[Tensor, " answer"]
    text: str
    cut: bool


@dataclass(frozen=True)
class Speaker:
    """A model with an SAE, and the features by which it is edited.

    Attributes:
        context: the most tokens that the model takes.
        layer: the hook layer.
        decoder: on the CPU, since only some of its rows are used.
    """

    builder: InputBuilder
    model: WholeModel
    context: int
    layer: int
    dictionary: Dictionary
    decoder: Decoder
    spec: EditSpec

    def edit(self, units: Sequence[float], strength: float, direction: int = 0, seed: int = 0) -> Edit:
        """The edit of a strength.

        Args:
            units: the activation of each feature that strength 1 is.
            direction: 0 for the features' own directions; others each for a random rotation of them.
            seed: of these rotations.
        """
        weight = self.dictionary.weight
        directions = self.decoder.weight[list(self.spec.features)]
        if direction:
            directions = rotated(directions, f"steer:{seed}:{direction}")
        levels = strength * torch.tensor(units, dtype=weight.dtype, device=weight.device)
        own = self.spec.features, directions.to(weight.device)
        return steered(self.dictionary, self.decoder, *own, self.spec.mode, levels, self.spec.positions)

    def prompt(self, image: Image, question: str) -> ModelInputs:
        """What the model is given to answer.

        Raises:
            SampleError: the image or the question does not fit the model.
        """
        built = self.builder.build_prompt(image, question)
        if len(built.input_ids) >= self.context:
            raise TooLong(f"{self.context:,} tokens, which leave no room for an answer in the model's context")
        return built

    def answers(self, prompts: Sequence[ModelInputs], max_new_tokens: int, edit: Edit | None) -> list[Said]:
        """Answers to prompts. Each has the room that it would have alone, whatever stands beside it."""
        rooms = [min(max_new_tokens, self.context - len(prompt.input_ids)) for prompt in prompts]
        said = self.model.generate(prompts, max(rooms), self.layer, edit)
        return [
            Said(ids[:room], self.builder.decode(ids[:room]), len(ids) >= room)
            for ids, room in zip(said, rooms, strict=True)
        ]

    def observed(
        self, prompts: Sequence[ModelInputs], max_new_tokens: int
    ) -> list[tuple[Said, Float[Tensor, "tokens features"]]]:
        """Unedited answers, and how the features fire on each prompt: not on its first token, nor on BOS.

        The hidden states there are huge and the same in every prompt; SAEs do not learn from them.
        """
        seen: list[Tensor] = []

        def watch(hidden: Float[Tensor, "tokens d_model"], _: Bool[Tensor, " tokens"]) -> Tensor:
            # The prompts come first, one by one; then each token that is said.
            if len(seen) < len(prompts):
                states = hidden[learned_from(prompts[len(seen)], self.builder.bos_token_id).to(hidden.device)]
                seen.append(activations_of(self.dictionary, states.to(self.dictionary.weight), self.spec.features))
            return hidden

        return list(zip(self.answers(prompts, max_new_tokens, watch), seen, strict=True))

    def likelihoods(
        self, prompts: Sequence[ModelInputs], answers: Sequence[Sequence[int]], edit: Edit | None
    ) -> list[list[float]]:
        """The log-probability, in nats, of each token of an answer after its prompt, all in one forward pass."""
        read = self.model.read(pack(list(map(_answered, prompts, answers))), self.layer, edit)
        return [each.tolist() for each in read.log_probabilities]


def _answered(prompt: ModelInputs, answer: Sequence[int]) -> ModelInputs:
    """A prompt and the very tokens that were said, which its text need not give again."""
    ids = torch.tensor(answer, dtype=torch.int64)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, ids]),
        is_image=torch.cat([prompt.is_image, torch.zeros_like(ids, dtype=torch.bool)]),
        n_response=len(ids),
    )


def load_speaker(subject: Subject, spec: EditSpec) -> Speaker:
    """Load the model and its one SAE.

    Raises:
        ConfigurationError: their files are damaged.
    """
    (pair,) = subject.pairs.values()
    return Speaker(
        builder=subject.load_builder(),
        model=subject.load_whole(),
        context=subject.model.context,
        layer=pair.hook_layer,
        dictionary=load_dictionary(pair.sae, subject.device),
        decoder=load_decoder(pair.sae),
        spec=spec,
    )


def fired(z: Float[Tensor, "tokens features"]) -> list[Fired]:
    """How each feature fires on a prompt."""
    tokens, totals = (z > 0).sum(0).tolist(), z.double().sum(0).tolist()
    return [Fired(tokens=n, total=total) for n, total in zip(tokens, totals, strict=True)]


def measured(spec: EditSpec, prompts: Sequence[Sequence[Fired]]) -> list[Unit]:
    """What strength 1 is of each feature: as given, or its mean over the tokens of the prompts where it is active.

    Raises:
        ConfigurationError: one is active nowhere, and no unit is given.
    """
    units = []
    for place, feature in enumerate(spec.features):
        fired = [prompt[place] for prompt in prompts]
        tokens = sum(each.tokens for each in fired)
        if not tokens and spec.units is None:
            raise ConfigurationError(
                f"--feature {feature}: it is active on none of {len(prompts):,} prompts, so there is no activation to "
                "measure strength by and none to ablate; name another feature or other images, or give --unit"
            )
        unit = sum(each.total for each in fired) / tokens if spec.units is None else spec.units[place]
        images = sum(each.tokens > 0 for each in fired)
        units.append(Unit(feature=feature, unit=unit, tokens=tokens, images=images))
    return units


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Say what to do where memory has no room for a batch of answers.

    Raises:
        RunStopped: it had none.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunStopped(
            "out of memory: begin anew with --overwrite and a lower --batch-size or --max-new-tokens"
        ) from error
