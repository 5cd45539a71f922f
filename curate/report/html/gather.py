"""What a report holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from upath import UPath

from curate.errors import DataError
from curate.fingerprint import file_sha256
from curate.interpret.labels import read_labels
from curate.manifest.order import best_first, checked_metric
from curate.manifest.record import MANIFEST, RunRecord, read_record
from curate.manifest.rule import Rule, kept
from curate.manifest.verify import read_tables
from curate.report.html.comparisons import Compared, compared
from curate.report.html.contents import Shown, contents, shown
from curate.report.html.duplicates import Duplicates, duplicates
from curate.report.html.features import Features, read_features
from curate.report.html.galleries import Gallery, galleries
from curate.report.html.scores import Reason, Scores, kept_rows, quarantine_reasons, rank_correlations, read_scores
from curate.report.html.studies import Study, calibration_of, sweep_of
from curate.report.samples import RunSamples, open_samples

LABELS, REASONS, FEATURES, GROUPS, MOVES = 8, 20, 15, 6, 8  # of each that are listed
MEMBERS = 6  # rows of a group of copies that are shown
CARD_PIXELS, THUMB_PIXELS = 320, 96


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        others: runs that are compared with the first.
        by: the metric that decides; None for the one that the run is ranked by.
        ratio: the share that is kept.
        gallery: samples of each gallery.
        labels: a file of what features are called.
        calibration, sweep: folders; None for those that lie around the run.
    """

    run: UPath
    others: tuple[UPath, ...] = ()
    by: str | None = None
    ratio: Decimal = Decimal("0.2")
    gallery: int = 8
    labels: Path | None = None
    calibration: UPath | None = None
    sweep: UPath | None = None


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        keep: rows above the cut; cut: the lowest score that is kept.
        correlations: of each two columns.
        contents: what samples hold, by source row, as cards show them; thumbs: the same, small.
        unavailable: why no content is shown; None where the data can be read.
    """

    request: Request
    record: RunRecord
    by: str
    keep: int
    cut: float | None
    scores: Scores
    correlations: Mapping[tuple[str, str], float | None]
    features: Features
    reasons: tuple[Reason, ...]
    n_reasons: int
    galleries: tuple[Gallery, ...]
    duplicates: Duplicates
    calibration: Study | None
    sweep: Study | None
    compared: tuple[Compared, ...]
    contents: Mapping[int, Shown]
    thumbs: Mapping[int, Shown]
    unavailable: str | None


def gather(request: Request, say: Callable[[str], None]) -> Report:
    """Read all that a report says.

    Args:
        say: is told what is being done.

    Raises:
        ConfigurationError: a run did not compute the metric, or what is named is not there.
        DataError: a run or a study is damaged.
    """
    run = request.run
    record = read_record(run)
    by = checked_metric(run, record, request.by)
    labels = read_labels(request.labels) if request.labels is not None else {}
    calibration = calibration_of(run, record, request.calibration)
    sweep = sweep_of(run, record, request.sweep)
    say("reading the manifest")
    if file_sha256(run / MANIFEST) != record.run_hash:
        raise DataError(f"{run / MANIFEST} is not the file that run.json describes; see curate verify")
    order = best_first(run, record, by)
    keep = kept(read_tables(run, MANIFEST, ["rank"]), Rule(ratio=request.ratio, by=by))
    above = kept_rows(order, keep)
    scores = read_scores(run, record, by, above, LABELS)
    features = read_features(run, record, above, labels, FEATURES)
    reasons, n_reasons = quarantine_reasons(run, REASONS)
    shown_galleries = galleries(run, record, by, order, keep, request.gallery, labels)
    cut = next((each.cards[-1].score for each in shown_galleries if each.name == "above" and each.cards), None)
    say("comparing runs")
    others = tuple(compared(run, record, other, request.by, MOVES) for other in request.others)
    say("opening the data")
    samples = open_samples(record)
    copies = duplicates(
        run, order, keep, samples, GROUPS, lambda done, total: say(f"looking for copies: {done:,} of {total:,}")
    )
    say("reading samples")
    cards = {card.source_row: card.sample_id for each in shown_galleries for card in each.cards}
    listed = {
        member.source_row: member.sample_id
        for groups in (copies.copies, copies.same_image, copies.near)
        if groups is not None
        for group in groups.largest
        for member in group[:MEMBERS]
    }
    listed |= {
        each.source_row: each.sample_id for other in others for each in other.moves if each.source_row is not None
    }
    unavailable = samples.unavailable
    found: tuple[dict[int, Shown], dict[int, Shown]] = {}, {}
    try:
        found = _contents(samples, cards, CARD_PIXELS), _contents(samples, listed, THUMB_PIXELS)
    except DataError as error:
        unavailable = str(error)
    return Report(
        request=request,
        record=record,
        by=by,
        keep=keep,
        cut=cut,
        scores=scores,
        correlations=rank_correlations(scores.columns),
        features=features,
        reasons=reasons,
        n_reasons=n_reasons,
        galleries=shown_galleries,
        duplicates=copies,
        calibration=calibration,
        sweep=sweep,
        compared=others,
        contents=found[0],
        thumbs=found[1],
        unavailable=unavailable,
    )


def _contents(samples: RunSamples, sample_ids: Mapping[int, str], longest: int) -> dict[int, Shown]:
    return {row: shown(content, longest) for row, content in contents(samples, sample_ids)}
