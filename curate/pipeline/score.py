"""The scoring run: open or resume its folder, stream the missing ranges, commit each, rank, record."""

import contextlib
import math
from collections.abc import Callable, Iterator

import pyarrow as pa

from curate.datasets import Dataset
from curate.errors import ConfigurationError, CurateError, DataError, RunStopped, first_line
from curate.manifest.ledger import commit
from curate.manifest.lock import locked
from curate.manifest.record import WEIGHTS_FOLDER, RunRecord, SAERecord, Throughput, read_sae, write_sae
from curate.manifest.weights import WeightsRecord, read_weights
from curate.pipeline.executor import Executor, executor
from curate.pipeline.finish import finish
from curate.pipeline.first_pass import copy_weights, first_pass
from curate.pipeline.folder import check_output, differs, open_folder, sound_shards
from curate.pipeline.job import ScoreJob
from curate.pipeline.meter import Work, throughput
from curate.pipeline.plan import Plan, inputs
from curate.pipeline.plan import plan as make_plan
from curate.pipeline.progress import Progress, Report
from curate.pipeline.ranges import Arrived, Range
from curate.pipeline.session import SAME_COMMAND, Session, resumable
from curate.storage import location


def score(
    job: ScoreJob,
    report: Report,
    announce: Callable[[Plan, int], None],
    overwrite: bool = False,
    go_on: str | None = None,
    sae: SAERecord | None = None,
) -> RunRecord:
    """Execute a scoring run, or what is left of it if its folder holds the beginning of the same one.

    Args:
        report: called as samples are done.
        announce: called once with what was found and how many rows are scored already, before anything is loaded.
        overwrite: replace an existing run folder instead of resuming it.
        go_on: how to go on where this is cut off, if not by `curate score --resume`.
        sae: how to read the SAE, from a run over the samples that these were made from; by default it is measured.

    Raises:
        ConfigurationError, DataError: before any work is done; also where the folder's run has other inputs.
        RunStopped: the run cannot go on; the ranges committed so far are kept.
        KeyboardInterrupt: with a message that says how to resume.
    """
    run = location(job.output)
    check_output(run, overwrite)
    plan = make_plan(job, overwrite)
    wanted = inputs(plan)
    go_on = go_on or f"curate score --resume {run}{' --allow-poor-fit' if job.allow_poor_fit else ''}"
    with locked(run), resumable(go_on):
        check_output(run, overwrite)  # hashing may have taken hours
        begun = open_folder(run, wanted, overwrite)
        if sae is not None:
            write_sae(run, sae)
        shards, notes = sound_shards(plan, run, begun, report)
        step, total = job.shard_rows, len(plan.dataset)
        budget = math.floor(job.max_error_rate * total + 1e-9)  # 29 of 100 are not more than 0.29
        session = Session(plan, run, shards, report, budget, go_on, notes)
        announce(plan, session.rows)
        ranges = [(start, min(start + step, total)) for start in range(0, total, step) if start not in shards]

        def write(whole: Range, rows: pa.Table, weights: str | None) -> None:
            session.put(commit(run, *whole, rows, weights, plan.dataset.stamp()))

        return execute(session, plan.dataset, ranges, write)


def execute(
    session: Session, dataset: Dataset, ranges: list[Range], write: Callable[[Range, pa.Table, str | None], None]
) -> RunRecord:
    """Score ranges of the data set's positions, `write` each that is whole, then rank and record the run.

    Raises:
        As `score`.
    """
    with _one_line(session):
        weights = _weights_at_hand(session)
        if weights is not None:
            _refuse_other_weights(session, weights)
        parameters = session.plan.job.parameters
        sae = read_sae(session.run, session.plan.sae.sha256) if parameters.reads_activations else None
        if sae is not None and session.plan.sae.scale in (None, sae.scale):
            session.use(sae)
        missing_weights = parameters.needs_weights and weights is None
        if session.quarantined <= session.error_budget and (ranges or missing_weights):
            left = sum(stop - start for start, stop in ranges)
            with executor(session.plan, left, session.report) as running:
                session.device = running.device
                weights = _first_pass(session, running, weights)
                _refuse_poor_fit(session)
                if ranges:
                    with session.timed("score"):
                        session.throughput["score"] = _score(session, running, dataset, ranges, weights, write)
            _refuse_changed_data(session)
        record = finish(session, weights)
    if session.quarantined > session.error_budget:
        left = f", or go on with: curate score --resume {session.run} --max-error-rate 1"
        raise RunStopped(
            f"{session.quarantined:,} of {session.rows:,} rows read failed, more than --max-error-rate "
            f"{session.plan.job.max_error_rate} of {len(session.plan.dataset):,} allows ({_commonest(record)}); what "
            f"was scored is in {session.run}; see curate quarantine{'' if record.status == 'complete' else left}"
        )
    return record


def _first_pass(session: Session, running: Executor, weights: WeightsRecord | None) -> WeightsRecord | None:
    """What is missing of the SAE's reading, its fit and the feature weights; returns the weights, if any are needed."""
    parameters = session.plan.job.parameters
    if not parameters.reads_activations:
        return None
    if weights is None and session.plan.weights is not None:
        weights = copy_weights(session.plan, session.run)
    weigh = parameters.needs_weights and weights is None
    if weigh or session.sae is None or not session.sae.samples:
        stage = "weights" if weigh else "fit"
        with session.timed(stage):
            reading = None if session.sae is None else session.sae.reading
            found = first_pass(running, session.plan, session.run, weigh, reading)
        if found.throughput is not None:
            session.throughput[stage] = found.throughput
        session.use(found.sae)
        weights = weights or found.weights
    if weights is not None:
        _refuse_other_weights(session, weights)
        if session.sae is not None and weights.sae_scale not in (None, session.sae.scale):
            raise DataError(
                f"the feature weights in {session.run} are of the SAE at scale {weights.sae_scale:g}, and the run's "
                f"sae.json has {session.sae.scale:g}: start anew with --overwrite"
            )
    return weights


def _refuse_poor_fit(session: Session) -> None:
    """Stop before anything is scored; what was scored before was allowed."""
    sae, job = session.sae, session.plan.job
    if sae is None or not sae.poor or job.allow_poor_fit or session.shards:
        return
    anyway = f"curate score --resume {session.run} --allow-poor-fit"
    if session.go_on == SAME_COMMAND:
        anyway = f"{SAME_COMMAND} with --allow-poor-fit (in a job file, allow_poor_fit: true under score)"
    raise ConfigurationError(
        f"--sae {job.sae} does not fit these data: it {sae.summary}. Take another "
        f"(curate saes --model {job.model.name}), or score anyway: {anyway}"
    )


def _score(
    session: Session,
    running: Executor,
    dataset: Dataset,
    ranges: list[Range],
    weights: WeightsRecord | None,
    write: Callable[[Range, pa.Table, str | None], None],
) -> Throughput:
    """Score the ranges; stop once more rows are quarantined than the budget allows."""
    total = len(dataset)
    done = total - sum(stop - start for start, stop in ranges)
    tokens = quarantined = 0
    work, seconds = Work(), 0.0

    def arrived(rows: Arrived) -> None:
        nonlocal done, tokens, quarantined, work, seconds
        work, seconds = work + rows.work, rows.seconds
        done, tokens, quarantined = done + rows.rows, tokens + rows.tokens, quarantined + rows.quarantined
        session.report(Progress("score", done, total, tokens, quarantined, seconds))

    def write_and_count(whole: Range, rows: pa.Table) -> bool:
        write(whole, rows, None if weights is None else weights.sha256)
        return session.quarantined <= session.error_budget

    session.report(Progress("score", done, total))
    tensor = None if weights is None else read_weights(session.run / WEIGHTS_FOLDER)[0]
    running.score(session.plan, dataset, ranges, tensor, write_and_count, arrived)
    return throughput(work, seconds, quarantined)


def _weights_at_hand(session: Session) -> WeightsRecord | None:
    """The run's own feature weights, if it needs any and they are whole."""
    if not session.plan.job.parameters.needs_weights:
        return None
    try:
        return read_weights(session.run / WEIGHTS_FOLDER)[1]
    except ConfigurationError:
        return None


def _refuse_other_weights(session: Session, weights: WeightsRecord) -> None:
    """Scores of two sets of weights must not meet: those of the shards, or those given, are the run's."""
    given = session.plan.weights
    for wanted in [shard.weights for shard in session.shards.values()] + ([given.sha256] if given else []):
        if wanted != weights.sha256:
            raise DataError(
                f"the feature weights in {session.run} were lost or replaced: the run was begun with others (weights "
                f"hash {str(wanted)[:12]}… ≠ {weights.sha256[:12]}…); start anew with --overwrite"
            )


def _refuse_changed_data(session: Session) -> None:
    """A quick look for a sign of change; where there is one, the content decides."""
    plan, wanted = session.plan, session.plan.dataset_sha256[:12]
    again = f"curate score --resume {session.run}, which scores again what was read from the changed ones"
    if plan.dataset.stamp() != plan.data_stamp and (now := plan.dataset.fingerprint()) != plan.dataset_sha256:
        raise DataError(
            f"the input files changed during the run (data hash {wanted}… ≠ {now[:12]}…): put them back and go on "
            f"with: {again}; or start anew with --overwrite"
        )
    written = (session.shards[start] for start in session.written)
    if any(shard.data_stamp != plan.data_stamp and differs(plan, session.run, shard) for shard in written):
        raise DataError(f"the input files changed during the run, and were put back; go on with: {again}")


@contextlib.contextmanager
def _one_line(session: Session) -> Iterator[None]:
    """Failures of Ray, of a worker or of the disk, and signals, as one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as signal:
        raise type(signal)(f"interrupted: {_how_to_go_on(session)}") from None
    # Ray, the disk, an object store's client: each has errors of its own, and after weeks of work none may be all
    # that is left of a run. `--debug` shows where it came from.
    except Exception as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, CurateError) and not isinstance(cause, RunStopped):
            raise cause from error
        what = str(cause) if isinstance(cause, RunStopped) else f"the run failed: {first_line(cause)}"
        raise RunStopped(f"{what}; {_how_to_go_on(session)}") from error


def _how_to_go_on(session: Session) -> str:
    return f"{session.rows:,} of {len(session.plan.dataset):,} rows are kept; go on with: {session.go_on}"


def _commonest(record: RunRecord) -> str:
    by_error = sorted(record.counts.quarantined_by_error.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{count:,} {error}" for error, count in by_error[:3])
