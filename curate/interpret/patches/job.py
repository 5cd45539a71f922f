"""What `curate patches` is asked to do."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from curate.datasets.labelled.labelled import LabelledImages
from curate.interpret.study import StudyJob, absolute_sae, default_sae, once_each
from curate.metrics.parameters import Delta
from curate.storage import Location, absolute_if_there

Method = Literal["l0", "l1", "cooccurrence", "cosine", "random"]
METHODS: tuple[Method, ...] = get_args(Method)
Score = Literal["mean", "sum"]
ROWS, RECORD, PLOT, GALLERY, WEIGHTS = "rows.jsonl", "patches.json", "patches", "gallery.png", "weights"
OURS = {ROWS, RECORD, f"{PLOT}.png", f"{PLOT}.svg", GALLERY, WEIGHTS}
CLASS = "{class}"


class PatchesJob(StudyJob):
    """A study of which patches of images matter, fully spelled out."""

    kind: Literal["patches"] = "patches"
    sae: str = Field(
        default=None,
        validate_default=True,
        description="as `curate score` takes it; by default the one that is known for the model",
    )
    methods: tuple[Method, ...] = Field(default=METHODS, min_length=1, description="what patches are ranked by")
    ratios: tuple[float, ...] = Field(
        default=(0.75, 0.5, 0.25), min_length=1, description="shares of an image's patches that are kept"
    )
    fill: Literal["mean", "black"] = Field(
        default="mean", description="the colour of masked patches: mean is the model's own, for which its input is 0"
    )
    question: str | None = Field(
        default=None, min_length=1, description="what the model is asked; by default as the images' set has it"
    )
    answer: str | None = Field(
        default=None, description=f"how a class is answered, with {CLASS} in it; by default as the images' set has it"
    )
    score: Score = Field(default="mean", description="over the tokens of an answer, of their log-probabilities")
    delta: Delta = Field(
        default="auto", description="activation bound: active means z > delta; auto is as `curate score` takes it"
    )
    weights: Location | None = Field(
        default=None, description="feature weights of a run, for cosine; by default computed from the images' prompts"
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="tokens per forward pass; by default 8,192 on a GPU, and 3,072 on a CPU"
    )
    seed: int = Field(default=0, description="of random, and of which comes first among patches of equal score")
    gallery: int = Field(default=6, ge=0, le=50, description="images in the gallery")
    gallery_ratio: float | None = Field(
        default=None, description="the ratio that the gallery shows; by default 0.5, or else the lowest"
    )

    _default_sae = field_validator("sae", mode="before")(default_sae)

    @field_validator("methods", "ratios")
    @classmethod
    def _once_each(cls, named: tuple[Any, ...]) -> tuple[Any, ...]:
        return once_each(named)

    @field_validator("ratios")
    @classmethod
    def _shares(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if bad := [ratio for ratio in ratios if not 0 < ratio < 1]:
            raise ValueError(
                f"{', '.join(map(str, bad))}: a ratio is between 0 and 1; the whole image always stands by"
            )
        return tuple(sorted(ratios, reverse=True))

    @field_validator("answer")
    @classmethod
    def _names_the_class(cls, answer: str | None) -> str | None:
        if answer is not None and CLASS not in answer:
            raise ValueError(f"{answer!r} is the same for every class; write {CLASS} where its name stands")
        return answer

    @field_validator("gallery_ratio")
    @classmethod
    def _of_the_ratios(cls, ratio: float | None, info: ValidationInfo) -> float | None:
        ratios = info.data.get("ratios", ())
        if ratio is not None and ratio not in ratios:
            raise ValueError(f"{ratio} is none of the ratios {', '.join(map(str, ratios))}")
        return ratio

    @model_validator(mode="after")
    def _weights_are_read(self) -> "PatchesJob":
        if self.weights is not None and "cosine" not in self.methods:
            raise ValueError("--weights: cosine alone reads them, and is none of the methods")
        return self

    @property
    def shown_ratio(self) -> float:
        """The ratio that the gallery shows."""
        if self.gallery_ratio is not None:
            return self.gallery_ratio
        return 0.5 if 0.5 in self.ratios else min(self.ratios)

    def asked(self, images: LabelledImages, place: int) -> str:
        """What the model is asked about an image."""
        return images.question(place) if self.question is None else self.question

    def answers(self, images: LabelledImages, place: int) -> list[str]:
        """How each class would be answered."""
        if self.answer is None:
            return [images.answer(place, label) for label in range(len(images.classes))]
        return [self.answer.replace(CLASS, name) for name in images.classes]

    def absolute(self) -> Self:
        """The job with local paths made absolute."""
        weights = None if self.weights is None else absolute_if_there(self.weights)
        return super().absolute().model_copy(update={"sae": absolute_sae(self.sae), "weights": weights})
