"""`curate show RUN --sample`: everything known of one sample."""

import shlex
from typing import Any

_LONGEST = 5_000  # characters of a text


def show_sample(run: Any, record: Any, metric: str, sample: str, images: bool | None, json: bool) -> None:
    """Print a sample's image, texts, scores and strongest features, or why it could not be scored."""
    from curate.cli.console import print_json
    from curate.cli.pictures import pictures
    from curate.cli.shown import print_headline, print_unavailable, read_samples

    rows = _rows(run, record, metric, sample)
    if json:
        print_json(read_samples(record, rows).with_texts(rows))
        return
    samples = read_samples(record, rows, pictures(images))
    print_headline(run, record, metric)
    for row in rows:
        _print_content(row, samples.found.get(row["source_row"]))
        if "rank" in row:
            _print_scored(run, record, row)
        else:
            _print_quarantined(run, row)
    print_unavailable(samples)


def _rows(run: Any, record: Any, metric: str, sample: str) -> list[dict[str, Any]]:
    """The sample's rows; rank and score are by the metric, and so is a rank that names the sample."""
    from curate.manifest.find import find_rows, rank_of, unknown
    from curate.manifest.listing import list_run, ranked, ranks

    if metric == record.metrics[0]:
        return [ranked(row, metric, row["rank"]) if "rank" in row else row for row in find_rows(run, sample)]
    rank = rank_of(sample)
    if rank is None:
        found = find_rows(run, sample)
        return [ranked(row, metric, ranks(run, record, row)[metric]) if "rank" in row else row for row in found]
    listing = list_run(run, record, metric)
    if not 1 <= rank <= len(listing.order):
        raise unknown(run, sample)
    return listing.rows([rank])


def _print_content(row: dict[str, Any], found: Any) -> None:
    """The sample's name, and what it holds."""
    from rich.padding import Padding
    from rich.text import Text

    from curate.cli.console import OUT, printable

    source = f"row {row['source_row']:,} of the data"
    OUT.print(Text.assemble("\nsample ", (printable(row["sample_id"]).plain, "bold"), f", {source}"), soft_wrap=True)
    if found is None:
        return
    if found.image is not None:
        OUT.print()
        OUT.print(found.image)
    for name, text in found.texts.items():
        OUT.print()
        OUT.print(name, style="bold")
        for line in text[:_LONGEST].splitlines():
            OUT.print(Padding(printable(line), (0, 0, 0, 2)))
        if len(text) > _LONGEST:
            OUT.print(f"  … and {len(text) - _LONGEST:,} more characters; --json has them all")
    OUT.print()


def _print_quarantined(run: Any, row: dict[str, Any]) -> None:
    from curate.cli.console import OUT, printable

    OUT.print(printable(f"could not be scored: {row['error']} at stage {row['stage']}: {row['reason']}"), style="red")
    OUT.print("what else could not:", printable(shlex.join(["curate", "quarantine", str(run)])), soft_wrap=True)


def _print_scored(run: Any, record: Any, row: dict[str, Any]) -> None:
    from rich.columns import Columns

    from curate.cli.console import OUT, printable
    from curate.manifest.listing import ranks

    OUT.print(Columns([_scores(record, row, ranks(run, record, row)), _features(row)], padding=(0, 4)))
    facts = [f"{row['n_text_tokens']:,} text tokens, {row['n_image_tokens']:,} image tokens"]
    facts += [f"labelled {row['quality']}"] if row["quality"] is not None else []
    facts += ["near delta: a feature lies within float noise of its bound"] if row["near_delta"] else []
    facts += [f"near switch: so do {row['near_switch']:,} activations of theirs"] if row["near_switch"] else []
    for fact in facts:
        OUT.print(printable(fact), soft_wrap=True)
    OUT.print("why:", printable(shlex.join(["curate", "explain", str(run), row["sample_id"]])), soft_wrap=True)


def _scores(record: Any, row: dict[str, Any], rank: dict[str, int]) -> Any:
    """Every metric with the sample's score and rank by it."""
    from curate.cli.console import printable

    table = _table("metric", "score", f"rank of {record.counts.scored:,}")
    for metric in record.metrics:
        table.add_row(printable(metric, 40), f"{row[metric]:.6g}", f"{rank[metric]:,}")
    return table


def _features(row: dict[str, Any]) -> Any:
    """The features that add most to `cosine`."""
    table = _table("feature", "adds to cosine")
    for entry in row["top_features"]:
        table.add_row(str(entry["feature"]), f"{entry['contribution']:+.4f}")
    return table if row["top_features"] else ""


def _table(first: str, *others: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
