"""Arguments that several verbs take."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from curate.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

Job = TypeVar("Job", bound="BaseModel")

DEMO = "demo"  # as data set and as model
MODEL = "Model and SAE"  # panel of the help


def folder(text: str) -> Any:
    """A path or URL as an object of `curate.storage`; a parser for typer."""
    from curate.storage import location

    return location(text)


RunFolder = Annotated[
    Any, typer.Argument(parser=folder, metavar="RUN", help="Run folder, or its URL.", show_default=False)
]


Dashboard = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="The cluster's dashboard, http://HOST:8265; by default that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or "
        "this machine's.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As curate submit printed it.", show_default=False)]
PrintJob = Annotated[
    bool,
    typer.Option("--print-job", help="Print this as a job file for curate run and curate submit, and do nothing."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check all that this needs, estimate its time, and do nothing; see curate doctor."),
]
AllowModelMismatch = Annotated[
    bool,
    typer.Option("--allow-model-mismatch", help="Accept an SAE trained on another model.", rich_help_panel=MODEL),
]
AllowPoorFit = Annotated[
    bool,
    typer.Option(
        "--allow-poor-fit",
        help="Score even if the SAE reconstructs the data worse than their mean does.",
        rich_help_panel=MODEL,
    ),
]


def only_described(job: Any, print_job: bool, dry_run: bool, json: bool, overwrite: bool = False) -> bool:
    """Print the job's file, or what a doctor finds, if that is asked for instead of the work; whether it was."""
    if print_job:
        from curate.jobs.files import write_job

        print(write_job(job), end="")
    elif dry_run:
        from curate.cli.doctor import report

        report(job, json=json, overwrite=overwrite)
    return print_job or dry_run


def typed(ctx: typer.Context, name: str) -> bool:
    """Whether the option was given on the command line, and not by default, environment or configuration file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def without_configured_for_demo(ctx: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Options without a configured model and SAE where the demo is to be scored.

    A team's configured ones are for its own data; the demo is scored with them only when asked to here.
    """
    model, sae = options["model"], options["sae"]
    if options["dataset"] in (None, DEMO) and not typed(ctx, "model"):
        model = DEMO
    if model == DEMO and not typed(ctx, "sae"):
        sae = None
    return {**options, "model": model, "sae": sae}


def parts(text: str | None) -> list[str] | None:
    """The values of an option that are joined by commas, without empty ones."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def refuse(ctx: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse options that were given and would do nothing.

    Raises:
        ConfigurationError: one was.
    """
    if given := [name for name in names if typed(ctx, name)]:
        raise ConfigurationError(f"--{given[0].replace('_', '-')} {why}")


def pairs(option: str, text: str | None) -> dict[str, str] | None:
    """What an option of the form name=value,name=value says.

    Raises:
        ConfigurationError: it has another form.
    """
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    if bad := [name for name, separator, value in pairs if not (name and separator and value)]:
        raise ConfigurationError(f"--{option.replace('_', '-')}: {', '.join(bad)} is not of the form name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}


def validated(kind: type[Job], content: Any) -> Job:
    """A job of what the options say.

    Raises:
        ConfigurationError: it is none.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise option_error(error) from error


def option_error(error: Any) -> ConfigurationError:
    """A pydantic error about options, as one line."""
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if isinstance(part, str)]
    # A part of the job that is wrong as a whole names its options itself.
    option = f"--{names[-1].replace('_', '-')}: " if names and names not in (["resources"], ["parameters"]) else ""
    option = option.replace("--metrics:", "--metric:").replace("--name:", "--dataset:").replace("--models:", "--on:")
    option = option.replace("--saes:", "--sae:").replace("--features:", "--feature:")
    option = option.replace("--strengths:", "--strength:").replace("--units:", "--unit:")
    if names[:1] == ["images"]:
        option = option.replace("--dataset:", "--images:")
    return ConfigurationError(option + first["msg"].removeprefix("Value error, "))
