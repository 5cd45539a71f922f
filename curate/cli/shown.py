"""What the listing and the single sample of `curate show` share: the run's headline and what is in its samples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

_READ_ROWS = 32  # whose encoded images are held at a time


class Shown(NamedTuple):
    """What a sample holds; the image is drawn for rich, or None where none is to be shown."""

    question: str
    chosen: str
    rejected: str
    image: Any

    @property
    def texts(self) -> dict[str, str]:
        return {"question": self.question, "chosen": self.chosen, "rejected": self.rejected}


class Samples(NamedTuple):
    """What samples hold, by source row; those that the data no longer hold are left out, and it says why."""

    found: dict[int, Shown]
    unavailable: str | None

    def with_texts(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with the texts of their samples, for JSON."""
        return [{**row, **(found.texts if (found := self.found.get(row["source_row"])) else {})} for row in rows]


def read_samples(
    record: Any, rows: Sequence[dict[str, Any]], pictures: Any = None, cells: tuple[int, int] | None = None
) -> Samples:
    """What the samples of some rows hold, with their images if there are `pictures`, no larger than `cells`."""
    from curate.report.samples import open_samples

    samples = open_samples(record)
    if samples.dataset is None:
        return Samples({}, samples.unavailable)
    found: dict[int, Shown] = {}
    # A quarantined row may have no id; it was not looked up by one either.
    ids = sorted((row["source_row"], row["sample_id"]) for row in rows if row["sample_id"])
    for start in range(0, len(ids), _READ_ROWS):
        for row, content in samples.read(dict(ids[start : start + _READ_ROWS])).items():
            image = pictures.draw(content.image, *(cells or ())) if pictures else None
            found[row] = Shown(content.asked, content.chosen, content.rejected, image)
    changed = f"{samples.dataset.name} has changed since the run"
    return Samples(found, None if found or not rows else changed)


def print_headline(run: Any, record: Any, metric: str) -> None:
    """Print what the run is of, and what a reader of its scores should know."""
    from curate.cli.console import OUT, printable

    arguments = record.arguments
    OUT.print(
        printable(
            f"{run}: {record.counts.scored:,} samples of {arguments['dataset']['name']} by {metric}, "
            f"with {arguments['model']['name']} (layer {record.hook_layer}, delta {record.delta:g})"
        ),
        soft_wrap=True,
    )
    for note in record.notes:
        OUT.print("[yellow]note:[/yellow]", printable(note), soft_wrap=True)


def print_unavailable(samples: Samples) -> None:
    """Print why samples' texts are missing, if they are."""
    from curate.cli.console import OUT, printable

    if samples.unavailable:
        OUT.print("texts are not shown:", printable(samples.unavailable), soft_wrap=True)
