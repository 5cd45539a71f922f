"""A run's folder at the beginning of a session: new, or found with what an earlier session left."""

from upath import UPath

from curate.errors import ConfigurationError, DataError, WorkerLost
from curate.manifest.annotations import ANNOTATIONS
from curate.manifest.atomic import LITTER
from curate.manifest.inputs import INPUTS_FILE, RunInputs, read_inputs, write_inputs
from curate.manifest.ledger import OWN_NAME, Shard, is_whole, read_ledger, read_shard, withdraw
from curate.manifest.lock import LOCK
from curate.manifest.record import MANIFEST, QUARANTINE, RUN_FILE, SAE_FILE, SHARDS_FOLDER, WEIGHTS_FOLDER
from curate.pipeline.plan import Plan
from curate.pipeline.progress import Progress, Report
from curate.storage import remove

SELECTIONS = "selections"
_OWN = {
    *(LOCK, INPUTS_FILE, RUN_FILE, MANIFEST, QUARANTINE, SAE_FILE),
    *(SHARDS_FOLDER, WEIGHTS_FOLDER, SELECTIONS, ANNOTATIONS),
}


def check_output(run: UPath, overwrite: bool) -> None:
    """Refuse an --output that holds anything but a run.

    Raises:
        ConfigurationError: it does, or the run in it cannot be resumed.
    """
    if not run.exists():
        return
    if not run.is_dir():
        raise ConfigurationError(f"--output {run} is a file; name a folder")
    names = {path.name for path in run.iterdir() if path.name != LOCK and not LITTER.fullmatch(path.name)}
    begun = INPUTS_FILE in names and (run / INPUTS_FILE).is_file()
    # Files of others are nobody's business, unless they would be taken for the run's or removed.
    ours = names <= _OWN and (begun or (names <= {SHARDS_FOLDER} and _only_shards(run / SHARDS_FOLDER)))
    if names and not (ours or (begun and not overwrite)):
        raise ConfigurationError(
            f"{run} is not a run folder, and holds other files; choose another --output"
            + ("; --overwrite replaces nothing but runs" if overwrite else "")
        )


def _only_shards(folder: UPath) -> bool:
    return not folder.exists() or all(OWN_NAME.fullmatch(path.name) for path in folder.iterdir())


def open_folder(run: UPath, wanted: RunInputs, overwrite: bool) -> RunInputs:
    """Make a new run's folder, or find that of a run to resume. The caller holds the lock.

    Returns:
        what the run was begun with.

    Raises:
        ConfigurationError: the folder's run has other inputs; each difference is named.
    """
    begun = None if overwrite else read_inputs(run)
    _sweep(run, everything=begun is None)
    if begun is None:
        (run / SHARDS_FOLDER).mkdir(parents=True, exist_ok=True)
        write_inputs(run, wanted)
        return wanted
    if differences := begun.differences(wanted):
        raise ConfigurationError(
            f"{run} holds a run with other inputs ({'; '.join(differences)}): choose another --output, or replace it "
            "with --overwrite"
        )
    if wanted.versions not in (begun.versions, *begun.other_versions):
        begun = begun.model_copy(update={"other_versions": [*begun.other_versions, wanted.versions]})
        write_inputs(run, begun)
    return begun


def _sweep(run: UPath, everything: bool) -> None:
    """Remove what writers that died left half-written; or all but the lock, and what people said of the samples."""
    # Last of all what says that this is a run: cut off before, the rest is still one, and can be removed.
    for path in sorted(run.iterdir(), key=lambda path: path.name == INPUTS_FILE):
        if path.name in (LOCK, ANNOTATIONS):
            continue
        if everything or LITTER.fullmatch(path.name):
            remove(path)
        elif path.name in (SHARDS_FOLDER, WEIGHTS_FOLDER):
            for inner in list(path.iterdir()):
                if LITTER.fullmatch(inner.name):
                    inner.unlink()


def sound_shards(the_plan: Plan, run: UPath, begun: RunInputs, report: Report) -> tuple[dict[int, Shard], list[str]]:
    """The committed shards that can be kept, and notes on those that cannot, which are withdrawn.

    A shard is kept if its file is as committed. Where the data files looked otherwise then, or images lie in files
    of their own, which no fingerprint covers, its rows must also be those that the data hold now.

    Raises:
        DataError: a row that was scored has no content any more, or a file cannot be read; nothing is withdrawn.
    """
    shards, notes = read_ledger(run), []
    damaged, changed = [], []
    for done, shard in enumerate(shards.values(), start=1):
        compare = the_plan.dataset.images_apart or shard.data_stamp != the_plan.data_stamp
        if not is_whole(run, shard):
            damaged.append(shard)
        elif compare and differs(the_plan, run, shard):
            changed.append(shard)
        report(Progress("check", done, len(shards)))
    for shard in damaged + changed:
        withdraw(run, shard)
        del shards[shard.start]
    if damaged:
        notes.append(f"shards damaged on disk and scored again: {len(damaged):,}")
    if changed:
        notes.append(f"shards whose data had changed, scored again: {len(changed):,}")
    for other in begun.other_versions:
        changes = ((name, begun.versions.get(name), other[name]) for name in other)
        others = ", ".join(f"{name} {before} → {after}" for name, before, after in changes if before != after)
        notes.append(f"resumed with other versions: {others}")
    return shards, notes


def differs(the_plan: Plan, run: UPath, shard: Shard) -> bool:
    """Whether a row's id is another than when it was scored; of a row that took its worker down, none is known.

    Raises:
        DataError: a row that was scored has no content any more.
    """
    now = dict(the_plan.dataset.sample_ids(range(shard.start, shard.stop)))
    found = False
    for row in read_shard(run, shard).to_pylist():
        source_row, error = row["source_row"], row.get("error")
        if error is None and now.get(source_row) is None:
            raise DataError(
                f"row {source_row:,} was scored, and has no content any more: is an image missing, or a folder not "
                f"mounted? Put it back; or score the data as they are now with --overwrite"
            )
        found |= error != WorkerLost.__name__ and row["sample_id"] != now.get(source_row)
    return found
