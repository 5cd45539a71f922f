"""The end of a run: its shards ranked, and its record."""

import pyarrow.parquet as pq
from upath import UPath

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
    SAERecord,
    ShardsRecord,
    read_record,
    write_record,
)
from curate.manifest.weights import WEIGHTS_FILE, WEIGHTS_RECORD, WeightsRecord
from curate.pipeline.session import Session

_MOST_WITHOUT_WEIGHT = 0.9


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


def _warnings(metric: str, alike: bool, weights: WeightsRecord | None, sae: SAERecord | None) -> list[str]:
    """Why the scores may say nothing."""
    found = []
    if sae is not None and sae.poor:
        found.append(f"the SAE does not fit these data: it {sae.summary}")
    if alike:
        found.append(f"every sample has the same {metric}: the ranking says nothing")
    if weights is not None and weights.features_without_weight > _MOST_WITHOUT_WEIGHT * weights.features:
        found.append(
            f"{weights.features_without_weight:,} of {weights.features:,} features have no weight: does the SAE fit "
            "the model, and are --weight-samples enough?"
        )
    return found


def _alike(run: UPath) -> bool:
    """Whether all of several samples have the same score, by what the manifest's footer says of its row groups."""
    with (run / MANIFEST).open("rb") as file:
        parquet = pq.ParquetFile(file)
        column, metadata = parquet.schema_arrow.get_field_index("score"), parquet.metadata
        groups = [metadata.row_group(index).column(column).statistics for index in range(metadata.num_row_groups)]
    return metadata.num_rows > 1 and min(each.min for each in groups) == max(each.max for each in groups)


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
    plan, run, job = session.plan, session.run, session.plan.job
    parameters = job.parameters
    names: dict[str, int | None] = {MANIFEST: totals.scored, QUARANTINE: totals.quarantined}
    if weights is not None:
        names |= {f"{WEIGHTS_FOLDER}/{WEIGHTS_FILE}": None, f"{WEIGHTS_FOLDER}/{WEIGHTS_RECORD}": None}
    read = totals.scored + totals.quarantined
    return RunRecord(
        package_version=__version__,
        status="complete" if read == len(plan.dataset) else "stopped",
        started=session.started,
        arguments=job.model_dump(mode="json"),
        metrics=list(parameters.columns),
        hashes=Hashes(
            dataset=plan.dataset_sha256,
            model=plan.model.sha256,
            sae=plan.sae.sha256,
            weights=None if weights is None else weights.sha256,
        ),
        hook_layer=plan.hook_layer,
        delta=parameters.bound,
        top_k=parameters.top_k,
        batch_size=parameters.tokens_per_pass(plan.device),
        device=session.device,
        dtype=str(plan.dtype).removeprefix("torch."),
        versions=versions("ray", "pyarrow"),
        counts=Counts(
            selected=len(plan.dataset),
            read=read,
            **vars(totals),
            features=plan.sae.d_sae,
            features_without_weight=None if weights is None else weights.features_without_weight,
        ),
        timings=session.timings,
        throughput=session.throughput,
        sae=session.sae,
        warnings=_warnings(parameters.columns[0], _alike(run), weights, session.sae),
        notes=[*plan.notes, *filter(None, [session.sae and session.sae.reading]), *session.notes],
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
