"""The kept fraction of a run: its best rows by a rule, with the run's hash, so that training can trust it.

People's decisions, if they are given, come after the rule: what they dropped is left out, what they kept is added.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field
from upath import UPath

from curate.errors import ConfigurationError, DataError
from curate.fingerprint import file_sha256, text_sha256
from curate.manifest.annotations import Override, overrides, read_annotations
from curate.manifest.atomic import LITTER, write_batches, write_text
from curate.manifest.order import checked_metric
from curate.manifest.rank import rank_order, with_rank
from curate.manifest.record import MANIFEST, RunRecord, read_record
from curate.manifest.rows import scored_schema
from curate.manifest.rule import Kept, Rule, kept
from curate.manifest.selection import SELECTION, SELECTION_FILE, SELECTION_SCHEMA, SelectionRecord
from curate.manifest.sort import sorted_rows
from curate.manifest.verify import read_tables
from curate.sample import draw
from curate.storage import Location, absolute, location, remove

_OWN = {SELECTION, SELECTION_FILE}
RANDOM = "random"
SELECTION_GROUP_ROWS = 1 << 20


class SelectJob(Kept):
    """What `curate select` is asked to do."""

    kind: Literal["select"] = "select"
    run: Location = Field(description="the run folder, or its URL")
    by: str | None = Field(default=None, description="a metric that the run computed; by default the one ranked by")
    seed: int | None = Field(default=None, description="with by: random, of a draw other than the run's own")
    overrides: Location | None = Field(
        default=None, description="a file of people's decisions to keep or drop samples, which come after the rule"
    )
    output: Location | None = Field(default=None, description="the folder to write; by default one inside the run")

    def absolute(self) -> "SelectJob":
        """The job with local paths made absolute."""
        given = {name: getattr(self, name) for name in ("run", "overrides", "output")}
        return self.model_copy(update={name: path and absolute(path) for name, path in given.items()})


def select_rows(
    tables: Iterable[pa.Table], keep: int, metric: str, scratch: Path, decided: Mapping[str, Override] | None = None
) -> Iterator[pa.Table]:
    """The best `keep` rows by a metric, in its order, as `SELECTION_SCHEMA`; less and more as was decided.

    Args:
        tables: of `sample_id`, `source_row` and the metric.
        scratch: as for `sorted_rows`.
        decided: by sample id.
    """
    dropped, added = (
        pa.array([name for name, each in (decided or {}).items() if each.decision == wanted], pa.string())
        for wanted in ("drop", "keep")
    )
    first = 1
    for rows in sorted_rows(tables, _columns(metric), rank_order(metric), scratch):
        best = max(0, keep - first + 1)
        ranked = with_rank(rows, metric, first).select(SELECTION_SCHEMA.names)
        yield _without(ranked.slice(0, best), dropped)
        if len(added):
            yield _only(ranked.slice(best), added)
        elif rows.num_rows >= best:
            return
        first += rows.num_rows


def _only(rows: pa.Table, sample_ids: pa.Array) -> pa.Table:
    return rows.filter(pc.is_in(rows["sample_id"], value_set=sample_ids))  # type: ignore[attr-defined]


def _without(rows: pa.Table, sample_ids: pa.Array) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["sample_id"], value_set=sample_ids)))  # type: ignore[attr-defined]


def _columns(metric: str) -> pa.Schema:
    schema = scored_schema([metric])
    return pa.schema([schema.field(name) for name in ("sample_id", "source_row", metric)])


def _scored(run: UPath, rule: Rule, columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of the run's rows, with the rule's own draw in place of the run's."""
    if rule.seed is None:
        yield from read_tables(run, MANIFEST, list(columns))
        return
    for rows in read_tables(run, MANIFEST, list(dict.fromkeys([*columns, "sample_id"]))):
        drawn = [draw(rule.seed, sample_id) for sample_id in rows["sample_id"].to_pylist()]
        at = rows.schema.get_field_index(rule.by)
        yield rows.set_column(at, rows.schema.field(at), pa.array(drawn, pa.float64()))


@dataclass(frozen=True)
class Choice:
    """What a selection is: from which run, by which rule, how many rows, into which folder.

    Attributes:
        keep: rows that the rule keeps.
        decided: what people decided about samples of the run, by their ids.
        elsewhere: how many more decisions there are, about samples that are none of the run's.
    """

    run: UPath
    record: RunRecord
    rule: Rule
    keep: int
    folder: UPath
    decided: Mapping[str, Override]
    elsewhere: int


def choose(job: SelectJob) -> Choice:
    """Which rows the job keeps; writes nothing.

    Raises:
        ConfigurationError: the run did not compute the metric, the rule keeps nothing, the folder is not free, or
            there is no such file of decisions.
        DataError: the run folder is damaged, or the file of decisions.
    """
    run = location(job.run)
    record = read_record(run)
    by = checked_metric(run, record, job.by)
    rule = Rule(by=by, seed=job.seed, ratio=job.ratio, top=job.top, min_score=job.min_score)
    if rule.seed is not None and rule.by != RANDOM:
        raise ConfigurationError(f"--seed {rule.seed}: only --by {RANDOM} draws; {rule.by} is what the run computed")
    if file_sha256(run / MANIFEST) != record.run_hash:
        raise DataError(f"{run / MANIFEST} is not the file that run.json describes; see curate verify")
    keep = kept(_scored(run, rule, [rule.by]), rule)
    decided, elsewhere = _decided(run, job.overrides) if job.overrides else ({}, 0)
    if keep == 0 and not any(each.decision == "keep" for each in decided.values()):
        raise ConfigurationError(f"no row of {run} scores {rule.min_score} or more by {rule.by}")
    name = f"{rule}-overrides-{_named(decided)}" if decided else str(rule)
    folder = location(job.output) if job.output else run / "selections" / name
    if folder.is_file() or any(path.name not in _OWN and not LITTER.fullmatch(path.name) for path in _files(folder)):
        raise ConfigurationError(f"{folder} holds something else; choose another --output")
    return Choice(run, record, rule, keep, folder, decided, elsewhere)


def _named(decided: Mapping[str, Override]) -> str:
    """Decisions by a hash, so that others do not take the place of a selection that was trained on."""
    return text_sha256("".join(f"{name} {each.decision}\n" for name, each in decided.items()))[:8]


def _decided(run: UPath, file: str) -> tuple[dict[str, Override], int]:
    """The decisions about samples of the run, and how many others the file holds."""
    if not location(file).is_file():
        raise ConfigurationError(f"--overrides {file}: there is no such file")
    decided = overrides(read_annotations(location(file)).values())
    wanted = pa.array(decided, pa.string())
    there: set[str] = set()
    for rows in read_tables(run, MANIFEST, ["sample_id"]):
        there.update(_only(rows, wanted)["sample_id"].to_pylist())
    return {name: each for name, each in decided.items() if name in there}, len(decided) - len(there)


def select(job: SelectJob) -> tuple[UPath, SelectionRecord]:
    """Write a selection folder, unless it stands as it would be written; errors as of `choose`."""
    choice = choose(job)
    run, rule, folder = choice.run, choice.rule, choice.folder
    if (standing := _standing(folder, choice)) is not None:
        return folder, standing
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _files(folder):
            if LITTER.fullmatch(path.name):
                remove(path)
    except OSError as error:
        raise ConfigurationError(f"--output {folder} cannot be made: {error.strerror}") from error
    columns = _columns(rule.by).names
    rows = select_rows(_scored(run, rule, columns), choice.keep, rule.by, Path(gettempdir()), choice.decided)
    write_batches(folder / SELECTION, SELECTION_SCHEMA, _some(rows), group_rows=SELECTION_GROUP_ROWS)
    with (folder / SELECTION).open("rb") as file:
        selected = pq.read_metadata(file).num_rows
    selection = _selection_record(choice, selected, file_sha256(folder / SELECTION))
    write_text(folder / SELECTION_FILE, selection.model_dump_json(indent=2) + "\n")
    return folder, selection


def _some(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows; of none there is no selection."""
    found = 0
    for rows in tables:
        found += rows.num_rows
        yield rows
    if not found:
        raise ConfigurationError("--overrides drops every sample that the rule keeps")


def _files(folder: UPath) -> list[UPath]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _standing(folder: UPath, choice: Choice) -> SelectionRecord | None:
    """The selection that is there, if it is this one and whole."""
    try:
        found = SelectionRecord.model_validate_json((folder / SELECTION_FILE).read_text(encoding="utf-8"))
        sha256 = file_sha256(folder / SELECTION)
    except (OSError, ValueError):
        return None
    # Where the run lies decides nothing.
    wanted = _selection_record(choice, found.selected, sha256).model_copy(update={"run": found.run})
    return found if found == wanted else None


def _selection_record(choice: Choice, selected: int, sha256: str) -> SelectionRecord:
    record = choice.record
    return SelectionRecord(
        package_version=record.package_version,
        run=absolute(str(choice.run)),
        run_hash=record.run_hash,
        run_status=record.status,
        rule=choice.rule,
        dataset=record.arguments["dataset"],
        dataset_sha256=record.hashes.dataset,
        overrides=tuple(choice.decided.values()),
        overrides_elsewhere=choice.elsewhere,
        selected=selected,
        scored=record.counts.scored,
        sha256=sha256,
    )
