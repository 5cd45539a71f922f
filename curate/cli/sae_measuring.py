"""Options of the verbs that run a model to measure an SAE: which data, on what device."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from curate.cli.arguments import pairs, validated

if TYPE_CHECKING:
    from curate.harvest.activations import Harvest
    from curate.harvest.evaluate_plan import EvaluatePlan
    from curate.sae.dictionary import DictionaryInfo

DATA = "Data to measure on"
MODEL = "Model to measure on"


def _of_data(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=DATA, **more)


def _of_model(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=MODEL, **more)


@dataclass(frozen=True)
class Measuring:
    """The options, each declared here alone."""

    dataset: Annotated[str, _of_data("A name that `curate datasets` lists, or the path or URL of tables or texts.")] = (
        "demo"
    )
    data_dir: Annotated[str | None, _of_data("Copy of a named data set: a folder or URL.")] = None
    columns: Annotated[str | None, _of_data("For a table whose columns have other names: text=…,image=…")] = None
    split: Annotated[str, _of_data("A split, several joined by +, or all.")] = "train"
    files: Annotated[int | None, _of_data("The first N files of documents on the hub; by default 1.")] = None
    limit: Annotated[int, _of_data("The first N rows.", min=1)] = 200
    image_size: Annotated[int | None, _of_data("Resize images to N × N first.")] = None
    hook_layer: Annotated[int | None, _of_model("Block that the SAE reads, where its file does not say.")] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        _of_model("Precision of the model; auto is bfloat16 on a GPU, else float32."),
    ] = "auto"
    device: Annotated[Literal["auto", "cpu", "cuda"], _of_model("auto takes a GPU if there is one.")] = "auto"
    batch_size: Annotated[int, _of_model("Tokens per forward pass of the model.", min=1)] = 8192


On = Annotated[
    str | None,
    _of_model("Model to measure on (hub id or folder), if the SAE's config leaves open whether its scale is folded."),
]


def note_unused(on: str | None, info: "DictionaryInfo") -> None:
    """Say that `--on` is not used, where the scale is known."""
    from curate.cli.console import ERR, printable

    if on is not None and info.scale is not None:
        ERR.print(printable(f"--on {on}: not used, since the activation scale is known"), soft_wrap=True)


class Measured(NamedTuple):
    """An SAE and the hidden states that it is measured on."""

    info: "DictionaryInfo"
    harvest: "Harvest"
    plan: "EvaluatePlan"

    @property
    def source(self) -> dict[str, object]:
        """Model and data, for the record."""
        return {
            "model": self.harvest.model.name,
            "model_hash": self.harvest.model.sha256,
            "hook_layer": self.harvest.hook_layer,
            "dataset": self.plan.corpus.name,
            "dataset_sha256": self.plan.dataset_sha256,
            "rows": len(self.plan.corpus),
        }


def with_measuring(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb that takes `measuring` its fields as options."""
    fields = inspect.signature(Measuring).parameters.values()
    own = [each for each in inspect.signature(verb).parameters.values() if each.name != "measuring"]

    @wraps(verb)
    def called(**given: Any) -> None:
        measuring = Measuring(**{field.name: given.pop(field.name) for field in fields})
        verb(**given, measuring=measuring)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *fields)]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] - which typer reads
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return called


def measure_on(
    sae: str, model: str, measuring: Measuring, known: "Mapping[str, DictionaryInfo] | None" = None
) -> Measured:
    """Look at SAE, model and data, and check that they fit.

    Args:
        known: what the SAE is, if it was looked at before.

    Raises:
        ConfigurationError: they do not; or an option has no such value.
        DataError: data cannot be read, or the hub cannot be reached.
    """
    from curate.harvest.evaluate_job import SAEEvaluateJob
    from curate.harvest.evaluate_plan import plan

    data: dict[str, Any] = {
        "name": measuring.dataset,
        "data_dir": measuring.data_dir,
        "columns": pairs("columns", measuring.columns),
        "split": measuring.split,
        "files": measuring.files,
        "image_size": measuring.image_size,
        "limit": measuring.limit,
    }
    content: dict[str, Any] = {
        "saes": (sae,),
        "models": ({"name": model, "dtype": measuring.dtype, "device": measuring.device},),
        "dataset": data,
        "hook_layer": measuring.hook_layer,
        "batch_size": measuring.batch_size,
        "loss": False,
    }
    # To be evaluated and to be measured, an SAE must fit its model in the same way.
    found = plan(validated(SAEEvaluateJob, content), known or {})
    ((info,), ((harvest, _),)) = found.saes.values(), found.passes
    return Measured(info, harvest, found)
