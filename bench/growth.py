"""Time of scoring against tokens, features and samples, each over a factor of 8: `python -m bench.growth`.

The model of `bench.llava`, one thing growing at a time, sizes taken in turn. Tokens grow in texts without an image, of
one length each, for images come in steps; the model's own attention grows with the square of a text's length, and the
bare forward pass is drawn beside. The straight line is that of least squares.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

from bench import llava
from bench.score import Setting, load, scored, write
from curate.models.inputs import ModelInputs
from curate.models.packing import pack
from curate.sae.load import inspect_dictionary, load_dictionary
from curate.scoring.prepare import Prepared

TOKENS = (256, 512, 1024, 2048)
D_SAE = (8192, 16_384, 32_768, 65_536)
SAMPLES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Curve:
    """Median seconds at each size."""

    name: str
    sizes: tuple[int, ...]
    seconds: list[float]

    @property
    def line(self) -> np.ndarray:
        """Slope and intercept."""
        return np.polyfit(self.sizes, self.seconds, 1)

    @property
    def worst(self) -> float:
        """The largest distance from the line, as a share of what was measured."""
        fitted = np.polyval(self.line, self.sizes)
        return float(np.max(np.abs(fitted - self.seconds) / self.seconds))


def curve(name: str, sizes: tuple[int, ...], way: Callable[[int], Callable[[], object]], rounds: int) -> Curve:
    """Measure a way at each size, in turn."""
    ways = {size: way(size) for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds + 1):
        for size, run in ways.items():
            begun = time.perf_counter()
            run()
            if number:
                seconds[size].append(time.perf_counter() - begun)
        print(f"{name}, round {number}", file=sys.stderr, flush=True)
    return Curve(name, sizes, [statistics.median(seconds[size]) for size in sizes])


def text(tokens: int, row: int) -> Prepared:
    """A text of random tokens, without an image."""
    ids = torch.randint(10, 400, (tokens,), generator=torch.Generator().manual_seed(row))
    return Prepared(f"{row:032x}", row, None, ModelInputs(ids, torch.zeros(tokens, dtype=torch.bool), {}))


def curves(setting: Setting, scratch: Path, rounds: int) -> list[Curve]:
    """All of them."""

    def tokens(size: int) -> Callable[[], object]:
        samples = [text(size, row) for row in range(2)]
        return lambda: scored(setting, samples)

    def bare(size: int) -> Callable[[], object]:
        samples = [pack([text(size, row).inputs]) for row in range(2)]
        return lambda: [setting.cut.hidden_states(packed) for packed in samples]

    def features(size: int) -> Callable[[], object]:
        folder = scratch / f"sae-{size}"
        llava.write_sae(folder, d_sae=size)
        dictionary = load_dictionary(inspect_dictionary(str(folder)))
        weights = torch.rand(size, dtype=torch.float64)
        sized = replace(setting, dictionary=dictionary, weights=weights, samples=setting.samples[:2])
        return lambda: scored(sized, sized.samples)

    def samples(size: int) -> Callable[[], object]:
        return lambda: scored(setting, setting.samples[:size])

    return [
        curve("tokens of a text", TOKENS, tokens, rounds),
        curve("tokens of a text, bare forward pass", TOKENS, bare, rounds),
        curve("features of the SAE", D_SAE, features, rounds),
        curve("samples", SAMPLES, samples, rounds),
    ]


def draw(found: list[Curve], file: Path) -> None:
    """Each curve with its line."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tokens, bare, *others = found
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, shown in zip(axes, ([tokens, bare], *([each] for each in others)), strict=True):
        for each, color in zip(shown, ("#0072B2", "#999999"), strict=False):
            sizes = np.array([0, each.sizes[-1]])
            axis.plot(sizes, np.polyval(each.line, sizes), color=color, linewidth=1)
            label = "bare forward pass" if each is bare else "scoring"
            axis.plot(each.sizes, each.seconds, "o", color=color, markersize=5, label=label)
        axis.set(xlabel=shown[0].name, xlim=(0, None), ylim=(0, None), xticks=shown[0].sizes)
        axis.set_xticklabels([f"{size:,}" for size in shown[0].sizes], fontsize=8)
        axis.tick_params(axis="x", rotation=35)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/growth.png"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        write(folder, max(SAMPLES), "cpu", llava.D_SAE)
        found = curves(load(folder, "cpu"), Path(scratch), arguments.rounds)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"medians of {arguments.rounds} rounds\n")
    print("| grows | sizes | seconds | from the line, at most | 8 × as many take |\n|---|---|---|--:|--:|")
    for each in found:
        sizes, seconds = ", ".join(f"{size:,}" for size in each.sizes), ", ".join(f"{s:.2f}" for s in each.seconds)
        times = each.seconds[-1] / each.seconds[0]
        print(f"| {each.name} | {sizes} | {seconds} | {each.worst:.0%} | {times:.1f} × |")
    draw(found, arguments.picture)


if __name__ == "__main__":
    main()
