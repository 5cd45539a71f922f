"""The `curate` command."""

import gc
import os
import signal
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from curate import __version__
from curate.cli import (
    calibrate,
    datasets,
    demo,
    doctor,
    evaluate,
    explain,
    features,
    jobs,
    logs,
    metrics,
    patches,
    probe,
    quarantine,
    report,
    retry,
    run,
    sae,
    saes,
    score,
    select,
    show,
    status,
    steer,
    stop,
    submit,
    sweep,
    train,
    verify,
    view,
)
from curate.errors import ConfigurationError, CurateError, Terminated, first_line

CONFIG_FILE = "curate.toml"


class CurateGroup(TyperGroup):
    """Turns errors of ours into one line and an exit code, unless `--debug` asks for the traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CurateError as error:
            if ctx.params.get("debug"):
                raise
            from curate.cli.console import ERR, printable

            ERR.print("[red]error:[/red]", printable(str(error)), soft_wrap=True)
            ctx.exit(2 if isinstance(error, ConfigurationError) else 1)
        except KeyboardInterrupt as stop:
            typer.echo(str(stop) or "interrupted", err=True)
            ctx.exit(143 if isinstance(stop, Terminated) else 130)
        except (typer.Exit, typer.Abort, TyperException):
            raise
        # The disk, the network, an object store's client: each has errors of its own. So has a fault of ours.
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            from curate.cli.console import ERR, printable

            what = printable(f"{type(error).__name__}: {first_line(error)}; curate --debug … shows where")
            ERR.print("[red]error:[/red]", what, soft_wrap=True)
            ctx.exit(1)


app = typer.Typer(
    cls=CurateGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "CURATE", "help_option_names": ["-h", "--help"]},
    epilog="Every option can also be set in `curate.toml` (here, or in the user's configuration folder), as "
    "`sae = …` under `[score]`, or in the environment, as `CURATE_SCORE_SAE`.",
)
app.command("score")(score.score)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("view")(view.view)
app.command("quarantine")(quarantine.quarantine)
app.command("retry")(retry.retry)
app.command("select")(select.select)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)
app.command("run")(run.run)
app.command("submit")(submit.submit)
app.command("jobs")(jobs.jobs)
app.command("status")(status.status)
app.command("logs")(logs.logs)
app.command("stop")(stop.stop)
app.command("datasets")(datasets.datasets)
app.command("saes")(saes.saes)
app.command("metrics")(metrics.metrics)
app.command("explain")(explain.explain)
app.command("features")(features.features)
app.command("calibrate")(calibrate.calibrate)
app.command("sweep")(sweep.sweep)
app.command("patches")(patches.patches)
app.command("probe")(probe.probe)
app.command("steer")(steer.steer)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(sae.app, name="sae")
app.add_typer(demo.app, name="demo")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"curate {__version__}")
        raise typer.Exit


@app.callback()
def curate(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
) -> None:
    """Rank multimodal preference data by what a sparse autoencoder sees in it.

    Start with `curate score`, which ranks a small demo data set with a small demo model, then
    `curate show RUN` and `curate select RUN --ratio 0.2`.
    """
    defaults = configured(ctx.command, [Path(typer.get_app_dir("curate")) / CONFIG_FILE, Path(CONFIG_FILE)])
    # A team names its model and SAE once.
    named = {name: value for name, value in defaults.get("score", {}).items() if name in ("model", "sae")}
    ctx.default_map = {**defaults, **{verb: {**named, **defaults.get(verb, {})} for verb in ("calibrate", "sweep")}}


def configured(group: Any, files: list[Path]) -> dict[str, Any]:
    """Defaults from configuration files, later files winning, checked against the options that exist.

    Raises:
        ConfigurationError: a file is not TOML, or names a verb or option that does not exist.
    """
    merged: dict[str, Any] = {}
    for path in files:
        if not path.is_file():
            continue
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        # Numbers of thousands of digits and brackets in thousands of brackets have errors of their own.
        except (ValueError, RecursionError, OSError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        _merge(merged, group, content, str(path), "")
    return merged


def _merge(merged: dict[str, Any], group: Any, content: dict[str, Any], path: str, above: str) -> None:
    """Take in a table of verbs; those of a group, such as `[sae.train]`, are tables inside its table.

    A group that does work itself, such as `[evaluate]`, has its own options beside them.
    """
    for verb, options in content.items():
        command = group.commands.get(verb)
        name = f"{above}{verb}"
        if command is None or not isinstance(options, dict):
            raise ConfigurationError(f"{path}: [{name}] is not a verb; there are: {', '.join(group.commands)}")
        if hasattr(command, "commands"):
            inner = {key: value for key, value in options.items() if key in command.commands or not command.params}
            _merge(merged.setdefault(verb, {}), command, inner, path, f"{name}.")
            options = {key: value for key, value in options.items() if key not in inner}
        known = [parameter.name for parameter in command.params]
        for option, value in options.items():
            field = option.replace("-", "_")
            if field not in known:
                raise ConfigurationError(f"{path}: [{name}] has no option {option}; there are: {', '.join(known)}")
            merged.setdefault(verb, {})[field] = value


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def main() -> None:
    """Console script."""
    signal.signal(signal.SIGTERM, _terminate)
    # Read when torch is imported: threads that spin while they wait take the time of those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imports make hundreds of thousands of objects that stay; the collector's looks at them take a fifth of the time.
    gc.set_threshold(50_000)
    app()
