"""Writes the table of docs/dictionaries.md from the known SAEs: `make generated`."""

from pathlib import Path

from curate.sae.known import KnownSAE, known_saes

PAGE = Path(__file__).parents[2] / "docs" / "dictionaries.md"
BEGIN, END = "<!-- begin: written by make generated -->", "<!-- end -->"
HEAD = "| model | `--sae` | layers | features | kind | trained on | licence | size of a layer |"


def with_table(text: str) -> str:
    """The page's text with what is between its marks written again."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join([HEAD, "|---|---|---|---|---|---|---|---|", *map(row, known_saes())])
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def row(sae: KnownSAE) -> str:
    name = f"`{sae.name}`" + (" (default)" if sae.default_for else "") + (" (pickle)" if sae.pickled else "")
    cells = [", ".join(sae.models), name, sae.layer_text, f"{sae.d_sae:,}", sae.architecture]
    return f"| {' | '.join([*cells, sae.trained_on or '', sae.licence or '', sae.size_text or ''])} |"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
