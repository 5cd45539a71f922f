"""How the scores of a run are spread, in a few lines of a terminal."""

from typing import Any, NamedTuple

LINES, COLUMNS = 3, 100
FEWEST, WIDEST = 10, 4  # bins; columns of one
KEPT = "cyan"
_EIGHTHS = " ▁▂▃▄▅▆▇█"


class Bins(NamedTuple):
    """A histogram: how many scores are between each two of the ascending edges."""

    edges: Any
    counts: Any

    def place(self, score: float) -> int:
        """The bin that a score is in."""
        import numpy as np

        return int(np.clip(np.searchsorted(self.edges, score, "right") - 1, 0, len(self.counts) - 1))


def binned(scores: Any, columns: int) -> Bins:
    """Scores, best first and at least one, in at most as many bins as columns.

    Of a metric that counts, every bin has equally many of the whole numbers: else bars would be tall and short in turn.
    """
    import numpy as np

    low, high = float(scores[-1]), float(scores[0])
    if max(-low, high) < 2**50 and bool((scores == np.round(scores)).all()):
        numbers = int(high - low) + 1
        each = -(-numbers // columns)
        edges = low - 0.5 + each * np.arange(-(-numbers // each) + 1)
    else:
        edges = np.linspace(low, high, 2 if low == high else columns + 1)
    return Bins(edges, np.histogram(scores, edges)[0])


def print_histogram(metric: str, scores: Any, keep: int | None) -> None:
    """Print how scores, best first, are spread: the low ones to the left.

    Of a cut the place is marked, and what is kept is coloured and stands on a heavier line.
    """
    from curate.cli.console import OUT, printable

    columns = min(OUT.width, COLUMNS)
    bins = binned(scores, min(columns, max(FEWEST, round(2 * len(scores) ** 0.5))))
    most, wide = int(bins.counts.max()), max(1, min(WIDEST, columns // len(bins.counts)))
    OUT.print(printable(f"{len(scores):,} scores by {metric}; the tallest bar is {most:,}"), style="bold")
    cut = None if keep is None else bins.place(float(scores[keep - 1])) * wide
    for line in reversed(range(LINES)):
        OUT.print(_from(cut, "".join(_block(count / most, line) * wide for count in bins.counts)))
    drawn = len(bins.counts) * wide
    OUT.print(_from(cut, "─" * drawn if cut is None else "─" * cut + "━" * (drawn - cut)))
    if keep is not None and cut is not None:
        score = f"{scores[keep - 1]:.4g}"
        after, before = f"{' ' * cut}▲ cut at {score}", f"cut at {score} ▲".rjust(cut + 1)
        OUT.print(after if len(after) <= columns else before, style=KEPT, soft_wrap=True)
    low, high = f"{scores[-1]:.4g}", f"{scores[0]:.4g}"
    OUT.print(low, high.rjust(drawn - len(low) - 1), soft_wrap=True)


def _block(share: float, line: int) -> str:
    """What a bar shows in a line, counted from below, for a share of the full height; of a single row something."""
    eighths = 0 if share == 0 else max(1, round(share * LINES * 8))
    return _EIGHTHS[min(8, max(0, eighths - 8 * line))]


def _from(cut: int | None, text: str) -> Any:
    """A line of the picture, coloured from the cut on."""
    from rich.text import Text

    shown = Text(text, no_wrap=True)
    if cut is not None:
        shown.stylize(KEPT, cut)
    return shown
