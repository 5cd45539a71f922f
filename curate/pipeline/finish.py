"""The end of a run: its shards ranked, and its record."""

from curate import __version__
from curate.errors import DataError
from curate.fingerprint import file_sha256
from curate.manifest.inputs import versions
from curate.manifest.ledger import ledger_sha256, shard_file
from curate.manifest.rank import Totals, write_manifest
from curate.manifest.record import (
    MANIFEST,
    QUARANTINE,
    WEIGHTS_FOLDER,
    Counts,
    FileRecord,
    Hashes,
    RunRecord,
    ShardsRecord,
    read_record,
    write_record,
)
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord
from curate.pipeline.session import Session


def finish(session: Session, weights: WeightsRecord | None) -> RunRecord:
    """Rank and record the run, unless it stands as recorded."""
    if not session.written and (record := _standing_record(session)) is not None:
        return record
    shards = list(session.shards.values())
    with session.timed("rank"):
        totals = write_manifest(
            session.run, session.plan.job.parameters.columns, [shard_file(session.run, shard) for shard in shards]
        )
    record = _record(session, totals, weights)
    write_record(session.run, record)
    return record


def _standing_record(session: Session) -> RunRecord | None:
    try:
        record = read_record(session.run)
        same = all(file_sha256(session.run / name) == file.sha256 for name, file in record.files.items())
    except (DataError, OSError):
        return None
    same &= record.shards.sha256 == ledger_sha256(session.shards.values())
    same &= record.hashes.dataset == session.plan.dataset_sha256
    return record if same else None


def _record(session: Session, totals: Totals, weights: WeightsRecord | None) -> RunRecord:
    the_plan, run, job = session.plan, session.run, session.plan.job
    parameters = job.parameters
    names: dict[str, int | None] = {MANIFEST: totals.scored, QUARANTINE: totals.quarantined}
    if weights is not None:
        names |= {f"{WEIGHTS_FOLDER}/{WEIGHTS_FILE}": None, f"{WEIGHTS_FOLDER}/{WEIGHTS_RECORD}": None}
    read = totals.scored + totals.quarantined
    return RunRecord(
        package_version=__version__,
        status="complete" if read == len(the_plan.dataset) else "stopped",
        started=session.started,
        arguments=job.model_dump(mode="json"),
        metrics=list(parameters.columns),
        hashes=Hashes(
            dataset=the_plan.dataset_sha256,
            model=the_plan.model.sha256,
            sae=the_plan.sae.sha256,
            weights=None if weights is None else weights.sha256,
        ),
        hook_layer=the_plan.hook_layer,
        delta=parameters.delta,
        top_k=parameters.top_k,
        batch_size=parameters.tokens_per_pass(the_plan.device),
        device=session.device,
        dtype=str(the_plan.dtype).removeprefix("torch."),
        versions=versions("ray", "pyarrow"),
        counts=Counts(
            selected=len(the_plan.dataset),
            read=read,
            **vars(totals),
            features=the_plan.sae.d_sae,
            features_without_weight=None if weights is None else weights.features_without_weight,
        ),
        timings=session.timings,
        throughput=session.throughput,
        notes=[*the_plan.notes, *session.notes],
        shards=ShardsRecord(
            count=len(session.shards),
            kept=len(session.shards) - len(session.written),
            sha256=ledger_sha256(session.shards.values()),
        ),
        files={
            name: FileRecord(sha256=file_sha256(run / name), bytes=(run / name).stat().st_size, rows=rows)
            for name, rows in names.items()
        },
    )
