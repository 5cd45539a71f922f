"""What `curate steer` is asked to do."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from curate.interpret.study import StudyJob, absolute_sae, default_sae, once_each
from curate.models import ModelSpec
from curate.storage import LocalFolder, Location

Mode = Literal["add", "clamp", "ablate"]
Positions = Literal["all", "image", "text"]
UNEDITED, ANSWERS, RECORD, PLOT = "unedited.jsonl", "answers.jsonl", "steering.json", "steering"
IMAGE = "image.json"  # of one image
OURS = {UNEDITED, ANSWERS, RECORD, f"{PLOT}.png", f"{PLOT}.svg"}
WHAT = "steering"
QUESTION = "Describe the image."
STRENGTHS = (-4.0, -2.0, -1.0)


def _visible(words: tuple[str, ...]) -> tuple[str, ...]:
    if not all(word.strip() for word in words):
        raise ValueError("an empty word")
    return once_each(tuple(word.strip() for word in words))


Positive = Annotated[FiniteFloat, Field(gt=0)]
Words = Annotated[tuple[str, ...], AfterValidator(_visible)]


class EditSpec(BaseModel):
    """What is done to hidden states at the hook layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(once_each)] = Field(
        min_length=1, description="the features that are edited, all at once"
    )
    mode: Mode = Field(
        default="add",
        description="add strength · unit to an activation, clamp it to strength · unit, or ablate it: make it 0",
    )
    strengths: Annotated[tuple[FiniteFloat, ...], AfterValidator(once_each)] | None = Field(
        default=None,
        min_length=1,
        description=f"in units of the features' own activations, one after another; by default "
        f"{', '.join(f'{strength:g}' for strength in STRENGTHS)}; ablate has none",
    )
    positions: Positions = Field(
        default="all", description="where: at all tokens, BOS too and those that are said, or one modality's alone"
    )
    units: tuple[Positive, ...] | None = Field(
        default=None,
        description="the activation of each feature that strength 1 is; by default its mean over the tokens of the "
        "prompts where it is active, the first token and BOS left out",
    )

    @model_validator(mode="after")
    def _fits(self) -> "EditSpec":
        if self.units is not None and len(self.units) != len(self.features):
            raise ValueError(f"--unit: {len(self.units)} units of {len(self.features)} features")
        for option, given in (("strength", self.strengths), ("unit", self.units)):
            if self.mode == "ablate" and given is not None:
                raise ValueError(f"--{option}: ablate takes none; add and clamp do")
        return self

    @property
    def steps(self) -> tuple[float, ...]:
        """The strengths; to ablate is to clamp to 0."""
        return (0.0,) if self.mode == "ablate" else self.strengths or STRENGTHS


class SteerJob(StudyJob):
    """What `curate steer` is asked to do with a set of images."""

    kind: Literal["steer"] = "steer"
    sae: Location = Field(
        default=None,
        validate_default=True,
        description="as `curate score` takes it; by default the one that is known for the model",
    )
    edit: EditSpec = Field(description="what is done to hidden states")
    question: str = Field(default=QUESTION, min_length=1, description="asked of every image")
    label: str | None = Field(default=None, description="only images of this class")
    concept: Words = Field(
        default=(),
        description="an answer names the concept if one of these stands in it as a word; by default the label",
    )
    random_directions: int = Field(
        default=5, ge=1, description="random rotations of the features' directions that are tried beside them"
    )
    seed: int = Field(default=0, description="of the random directions")
    max_new_tokens: int = Field(default=64, ge=1, description="of an answer")
    batch_size: int = Field(default=8, ge=1, description="images that are answered about together")

    _default_sae = field_validator("sae", mode="before")(default_sae)

    @model_validator(mode="after")
    def _has_a_concept(self) -> "SteerJob":
        if not self.words:
            raise ValueError("--concept: name the words whose presence in answers is counted, or a --label")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """Those that name the concept."""
        return self.concept or ((self.label,) if self.label else ())

    def absolute(self) -> Self:
        """The job with local paths made absolute."""
        return super().absolute().model_copy(update={"sae": absolute_sae(self.sae)})


class SteerImage(BaseModel):
    """What `curate steer --image` is asked to do with one image."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    image: Path
    model: ModelSpec
    sae: Location = Field(default=None, validate_default=True)
    hook_layer: int | None = Field(default=None, ge=0)
    allow_model_mismatch: bool = False
    edit: EditSpec
    question: str = Field(default=QUESTION, min_length=1)
    max_new_tokens: int = Field(default=64, ge=1)
    output: LocalFolder | None = None

    _default_sae = field_validator("sae", mode="before")(default_sae)
