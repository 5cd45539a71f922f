"""The `curate` command inside this process: starting another one costs seconds of imports."""

from click.testing import Result
from typer.testing import CliRunner

from curate.cli.main import app


def curate(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], prog_name="curate")


def refused(error: str, *arguments: object, codes: tuple[int, ...] = (1, 2)) -> None:
    """The command says so in one line and nothing else, and exits with a code that is not 0."""
    result = curate(*arguments)
    assert result.exit_code in codes, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: "), result.stderr
    assert error in result.stderr
    assert result.stderr.count("\n") == 1
