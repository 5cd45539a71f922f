"""What the studies of features share: the images, model and SAEs of a job, and the folder that keeps the work."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from curate.datasets.labelled import NAMED, LabelledSpec
from curate.errors import ConfigurationError
from curate.manifest.inputs import INPUTS_FILE, RunInputs, own_files, read_inputs, versions, write_inputs
from curate.manifest.lock import LOCK, locked
from curate.models import DEFAULT_MODEL, DEMO, ModelSpec
from curate.scoring.sae import sae_for
from curate.storage import LocalFolder, absolute, absolute_if_there, location, remove

# Of (done, in all).
Report = Callable[[int, int], None]


class LeftOut(BaseModel):
    """An image that could not be looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="the image's name")
    error: str = Field(description="the class of what kept it from being looked at")
    reason: str = Field(description="that error's own words")


class StudyJob(BaseModel):
    """What every study is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    output: LocalFolder = Field(description="the folder of all that is made, on this machine")
    images: LabelledSpec = Field(default=LabelledSpec(), description="labelled images")
    model: ModelSpec = Field(
        default=None,
        validate_default=True,
        description=f"by default demo for {', '.join(NAMED)}, else {DEFAULT_MODEL}",
    )
    hook_layer: int | None = Field(default=None, ge=0, description="the block that SAEs read, where files do not say")
    allow_model_mismatch: bool = Field(default=False, description="take an SAE that was trained on another model")

    @field_validator("model", mode="before")
    @classmethod
    def _default_model(cls, model: Any, info: ValidationInfo) -> Any:
        """Real images are never looked at with the demo model unasked."""
        given = {} if model is None else model
        if not isinstance(given, dict) or given.get("name") is not None:
            return given
        real = "images" in info.data and info.data["images"].name not in NAMED
        return {**given, "name": DEFAULT_MODEL if real else DEMO}

    def absolute(self) -> Self:
        """The job with local paths made absolute."""
        places = {"output": absolute(self.output), "images": self.images.absolute(), "model": self.model.absolute()}
        return self.model_copy(update=places)


def default_sae(sae: Any, info: ValidationInfo) -> Any:
    """The default one of the model; a validator of a field that names an SAE.

    Raises:
        ValueError: none is named, and the model has none.
    """
    return sae_for(info.data["model"].name, sae) if "model" in info.data else sae


def absolute_sae(name: str) -> str:
    """An SAE's folder made absolute."""
    return name if name == DEMO else absolute_if_there(name)


class ManySAEsJob(StudyJob):
    """What a study is asked that compares SAEs, each of whatever hook layer, from one pass of the model."""

    saes: tuple[str, ...] = Field(
        default=None,
        validate_default=True,
        min_length=1,
        description="each as `curate score` takes it, of any layer; by default the one that is known for the model",
    )

    @field_validator("saes", mode="before")
    @classmethod
    def _default_saes(cls, saes: Any, info: ValidationInfo) -> Any:
        return saes or (default_sae(None, info),)

    @field_validator("saes")
    @classmethod
    def _named_once(cls, saes: tuple[str, ...]) -> tuple[str, ...]:
        return once_each(saes)

    def absolute(self) -> Self:
        """The job with local paths made absolute."""
        return super().absolute().model_copy(update={"saes": tuple(map(absolute_sae, self.saes))})


def once_each(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of an option, each named once.

    Raises:
        ValueError: one is named twice.
    """
    if repeated := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"{repeated[0]} is named twice")
    return values


@contextlib.contextmanager
def study_folder(
    job: StudyJob, decides: Mapping[str, Any], ours: Collection[str], overwrite: bool, what: str
) -> Iterator[Path]:
    """Hold the output folder of a study, new or begun with the same inputs.

    Args:
        decides: what the result depends on.
        ours: the names of what the study writes.
        what: the study, for messages.

    Raises:
        ConfigurationError: the folder holds something else, another study, or one that goes on in another process.
        KeyboardInterrupt: as it came, with the way to go on.
    """
    output = Path(job.output)
    ours = {*ours, INPUTS_FILE, LOCK}
    own_files(output, ours, what)
    with locked(location(job.output)):
        if overwrite:
            for name in sorted(own_files(output, ours, what)):
                remove(location(str(output / name)))
        inputs = RunInputs(arguments=job.model_dump(mode="json"), decides=dict(decides), versions=versions())
        begun = read_inputs(output)
        if begun is None:
            write_inputs(location(job.output), inputs)
        elif differences := begun.differences(inputs):
            raise ConfigurationError(
                f"--output {output} holds a {what} with another {'; '.join(differences)}; choose another folder, or "
                "--overwrite"
            )
        try:
            yield output
        except KeyboardInterrupt as signal:
            if str(signal):
                raise
            raise type(signal)(f"interrupted; {output} keeps what was done; the same command goes on") from None
