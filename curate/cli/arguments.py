"""Arguments that several verbs take."""

from typing import Annotated, Any

import typer


def folder(text: str) -> Any:
    """A path or URL as an object of `curate.storage`; a parser for typer."""
    from curate.storage import location

    return location(text)


RunFolder = Annotated[
    Any, typer.Argument(parser=folder, metavar="RUN", help="Run folder, or its URL.", show_default=False)
]


def typed(ctx: typer.Context, name: str) -> bool:
    """Whether the option was given on the command line, and not by default, environment or configuration file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
