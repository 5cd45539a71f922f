"""What a steering writes: a line for each answer, and the record of the effects."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from curate.interpret.intervals import Interval
from curate.interpret.study import LeftOut


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Fired(_Row):
    """How a feature fires on a prompt, its first token and BOS left out."""

    tokens: int = Field(description="where it is active")
    total: float = Field(description="its activation, summed over them")


class Unedited(_Row):
    """A line of `unedited.jsonl`: what the model says of an image, and how the features fire on the prompt."""

    image: str = Field(description="its id")
    label: str = Field(description="its class")
    error: str | None = Field(default=None, description="the class of what kept the image from being asked about")
    reason: str = Field(default="", description="that error's own words")
    text: str = Field(default="", description="the answer")
    cut: bool = Field(default=False, description="whether it came to no end")
    tokens: list[int] = Field(default=[], description="the answer's token ids, without the end")
    naming: list[int] = Field(default=[], description="the places of those that name the concept")
    log_probabilities: list[float] = Field(default=[], description="of each token of the answer")
    fired: list[Fired] = Field(default=[], description="how each feature fires on the prompt")


class Answer(_Row):
    """A line of `answers.jsonl`: what the model says of an image with edited hidden states."""

    image: str = Field(description="its id")
    strength: float = Field(description="in units of the features' own activations")
    direction: int = Field(description="0 of the features' own directions, from 1 of random ones")
    text: str = Field(description="the answer")
    cut: bool = Field(description="whether it came to no end")
    log_probabilities: list[float] = Field(description="of each token of the unedited answer, under the edit")


class Unit(_Row):
    """What strength 1 is of a feature."""

    feature: int
    unit: float = Field(description="an activation: the mean over tokens where the feature is active, or as given")
    tokens: int = Field(description="of prompts, where it is active")
    images: int = Field(description="on whose prompts it is active anywhere")


class Compared(_Row):
    """A figure of the features' own directions, and of random ones at the same strength, over the same images."""

    n: int = Field(description="images")
    own: Interval
    random: Interval = Field(description="the mean over random directions; its interval is over images")
    each: list[float] = Field(description="of each random direction")
    difference: Interval = Field(description="own less random, image by image")


class Example(_Row):
    """An image's answer without and with an edit along the features' own directions."""

    image: str
    before: str
    after: str


class Effect(_Row):
    """What edits of one strength do to answers."""

    strength: float
    naming: Compared = Field(description="share of answers that name the concept")
    changed: Compared = Field(description="share of answers that are not the unedited ones")
    removed: Compared | None = Field(
        description="of images whose unedited answer names the concept, the share that no longer do; null without any"
    )
    brought: Compared | None = Field(
        description="of images whose unedited answer does not name the concept, the share that do; null without any"
    )
    kept: Compared | None = Field(
        description="of the unedited answer's words that do not name the concept, the share that the answer still has: "
        "little where an edit breaks the text; null with fewer than two images"
    )
    concept_tokens: Compared | None = Field(
        description="change of the log-probability of the unedited answer's tokens that name the concept, in nats a "
        "token; null with fewer than two images"
    )
    other_tokens: Compared | None = Field(description="the same of its other tokens")
    examples: list[Example] = Field(description="the first images, not chosen")


class OneImage(_Row):
    """What the model says of one image; `image.json`."""

    image: str = Field(description="its file")
    question: str
    units: list[Unit]
    unedited: str = Field(description="the answer without an edit")
    edited: list[tuple[float, str]] = Field(description="each strength, and the answer with it")


class SteerRecord(_Row):
    """The whole of `steering.json`."""

    version: str
    job: dict[str, Any]
    model_sha256: str
    sae_sha256: str
    images_sha256: str
    hook_layer: int
    device: str
    dtype: str
    concept: list[str] = Field(description="the words that name it")
    images: int = Field(description="that were asked about")
    left_out: list[LeftOut]
    units: list[Unit]
    named: Interval = Field(description="share of unedited answers that name the concept")
    notes: list[str] = Field(description="on the SAE")
    effects: list[Effect]
    findings: list[str] = Field(description="of each strength, what it does to the concept, favourable or not")
