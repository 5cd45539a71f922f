"""Whatever curate.toml holds, it gives options that exist or one ConfigurationError."""

import json

import typer.main
from hypothesis import given
from hypothesis import strategies as st

from curate.cli.main import app, configured
from curate.errors import ConfigurationError
from tests.mutations import ANY_TEXT, damaged

GROUP = typer.main.get_command(app)
OPTIONS = sorted({parameter.name for command in GROUP.commands.values() for parameter in command.params})
SAMPLE = b'[score]\nsae = "folder"\nmetric = ["l0"]\nlimit = 5\nmax-error-rate = 0.5\n[demo]\n[show]\ntop = 3\n'
KEYS = st.sampled_from([*GROUP.commands, *OPTIONS]) | ANY_TEXT
VALUES = st.sampled_from(
    ("1", "-inf", "nan", '"x"', "[[[]]]", "{a = {b = 1}}", "2020-02-30", "9" * 5_000, "[" * 5_000, "'''\n'''")
)


@st.composite
def toml(draw: st.DrawFn) -> bytes:
    """Lines of the right form with any names, so that most get past the parser."""
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        key = json.dumps(draw(KEYS), ensure_ascii=False)
        lines.append(f"[{key}]" if draw(st.booleans()) else f"{key} = {draw(VALUES)}")
    return "\n".join(lines).encode(errors="surrogatepass")


@given(data=st.binary() | damaged(SAMPLE) | toml())
def test_any_configuration_file_is_options_or_one_line(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(data)
    try:
        found = configured(GROUP, [path])
    except ConfigurationError:
        return
    for verb, options in found.items():
        assert set(options) <= {parameter.name for parameter in GROUP.commands[verb].params}
