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
