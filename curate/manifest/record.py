"""`run.json`: what a run was computed from, with what, and what came out."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from upath import UPath

from curate.errors import DataError
from curate.manifest.atomic import write_text

SCHEMA_VERSION = 1
RUN_FILE, MANIFEST, QUARANTINE, SAE_FILE = "run.json", "manifest.parquet", "quarantine.parquet", "sae.json"
WEIGHTS_FOLDER, SHARDS_FOLDER = "weights", "shards"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FileRecord(_Record):
    """A data file of the run."""

    sha256: str
    bytes: int
    rows: int | None = Field(default=None, description="rows of a parquet file")


class Counts(_Record):
    """Samples by fate: scored + quarantined = read."""

    selected: int = Field(description="rows that the arguments picked; fewer are read when a run is stopped")
    read: int
    scored: int
    quarantined: int
    quarantined_by_error: dict[str, int]
    near_delta: int = Field(description="scored samples with a feature within float noise of delta")
    near_switch: int = Field(description="scored samples with an activation within float noise of zero or its jump")
    text_tokens: int
    image_tokens: int
    features: int
    features_without_weight: int | None = Field(
        default=None, description="features with fewer than K tokens in a modality"
    )


class Hashes(_Record):
    """SHA-256 of everything that decides the scores."""

    dataset: str
    model: str
    sae: str
    weights: str | None


class ShardsRecord(_Record):
    """The ledger of the run: what the manifest was ranked from."""

    count: int
    kept: int = Field(description="of these, already there when the last session began")
    sha256: str = Field(description="over all commit records, in order")


class Throughput(_Record):
    """What a stage achieved in the last session; work that was done twice counts twice, as after a worker's death."""

    samples: int = Field(description="that ran through the model")
    tokens: int = Field(description="of these samples, those that were run")
    quarantined: int = Field(description="samples that could not be scored")
    samples_per_second: float = Field(description="of the work alone: the start of workers is not counted")
    tokens_per_second: float
    shared_share: float = Field(
        description="of all texts' tokens, those that were not run again, for another text begins with them"
    )
    busy_share: float = Field(description="of the workers' time between being ready and their last batch")
    queued_batches: float = Field(description="prepared batches that waited for an actor, on average")


class Fit(_Record):
    """How well an SAE explains hidden states; a figure is None where there are no tokens to have it of."""

    tokens: int
    explained_variance: float | None = Field(
        description="1 - the squared error over the squared distance from the mean of these tokens"
    )
    l0: float | None = Field(description="features with an activation above 0, per token")


def _samples(count: int) -> str:
    return f"{count:,} sample{'' if count == 1 else 's'}"


def _short(share: float) -> str:
    return f"{share:.3f}" if abs(share) < 100 else f"{share:.3g}"


class SAERecord(_Record):
    """How the SAE was read, and how well it fits the run's data."""

    sha256: str
    scale: float = Field(
        gt=0,
        allow_inf_nan=False,
        description="activation scale that is folded in on loading; 1 if the weights have it",
    )
    reading: str | None = Field(
        default=None, description="what trying both readings gave, where the config leaves open whether scale is folded"
    )
    units: str = Field(description="of activations: normalised (hidden states of norm √d_model) or raw")
    licence: str | None = None
    samples: int = Field(description="samples that the fit is measured on, without their first positions")
    overflowed: int = Field(default=0, description="samples skipped, as their reconstruction is NaN or infinite")
    fit: dict[Literal["text", "image"], Fit] = Field(description="by the tokens' modality")

    @property
    def poor(self) -> bool:
        """Whether it overflows on most samples, or explains less of the text or image tokens than their mean does."""
        return self.overflowed > self.samples or self._worse_than_mean

    @property
    def _worse_than_mean(self) -> bool:
        return any(fit.explained_variance is not None and fit.explained_variance < 0 for fit in self.fit.values())

    @property
    def summary(self) -> str:
        """The fit in words, after "the SAE"."""
        parts = [
            f"{_short(fit.explained_variance)} of the variance of {modality} tokens (L0 {fit.l0:.1f})"
            for modality, fit in self.fit.items()
            if fit.explained_variance is not None
        ]
        what = ", ".join(parts) or "nothing that can be measured (no token has variance)"
        found = [f"explains {what}, in {_samples(self.samples)}"] if self.samples else []
        if self.overflowed:
            found.append(f"overflows in {_samples(self.overflowed)} (its reconstruction is NaN or infinite)")
        if self._worse_than_mean:
            found.append("below 0 is worse than the mean")
        return "; ".join(found) or "was not measured, as no sample could be used"


class RunRecord(_Record):
    """The whole of `run.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    package_version: str
    status: Literal["complete", "stopped"]
    started: str = Field(description="UTC, ISO 8601")
    arguments: dict[str, JsonValue]
    metrics: list[str] = Field(min_length=1, description="computed metrics; the manifest is ranked by the first")
    hashes: Hashes
    hook_layer: int
    delta: float
    top_k: int
    batch_size: int = Field(description="tokens per forward pass")
    device: str
    dtype: str
    versions: dict[str, str]
    counts: Counts
    timings: dict[str, float] = Field(description="seconds by stage, of the last session")
    throughput: dict[str, Throughput] = Field(description="by stage: `fit` or `weights`, and `score`")
    sae: SAERecord | None = Field(default=None, description="of runs whose metrics read activations")
    warnings: list[str] = Field(default=[], description="why the scores may say nothing")
    notes: list[str] = Field(description="what a reader of the scores should know")
    shards: ShardsRecord
    files: dict[str, FileRecord] = Field(description="data files by path below the run folder")

    @model_validator(mode="after")
    def _whole(self) -> "RunRecord":
        if missing := {MANIFEST, QUARANTINE} - set(self.files):
            raise ValueError(f"files does not list {', '.join(sorted(missing))}")
        return self

    @property
    def run_hash(self) -> str:
        """The run's hash: that of its manifest, which holds every score."""
        return self.files[MANIFEST].sha256


def write_sae(run: UPath, record: SAERecord) -> None:
    """Write `sae.json`. A resumed run reads its SAE as it says."""
    write_text(run / SAE_FILE, record.model_dump_json(indent=2) + "\n")


def read_sae(run: UPath, sha256: str) -> SAERecord | None:
    """The run's `sae.json`, or what `run.json` has of it, if it is whole and about the SAE with this hash."""
    try:
        found = SAERecord.model_validate_json((run / SAE_FILE).read_bytes())
    except (OSError, ValidationError):
        try:
            found = read_record(run).sae
        except DataError:
            return None
    return found if found is not None and found.sha256 == sha256 else None


def write_record(run: UPath, record: RunRecord) -> None:
    """Write `run.json`; its presence says that the run folder is whole."""
    write_text(run / RUN_FILE, record.model_dump_json(indent=2) + "\n")


def read_record(run: UPath) -> RunRecord:
    """Read `run.json`.

    Raises:
        DataError: no run folder, or a record that is damaged or of another version.
    """
    try:
        return RunRecord.model_validate_json((run / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        unfinished = (run / SHARDS_FOLDER).is_dir()
        state = (
            f"it is not finished; go on with: curate score --resume {run}" if unfinished else "it is not a run folder"
        )
        raise DataError(f"{run} has no {RUN_FILE}: {state}") from error
    except OSError as error:
        raise DataError(f"{run / RUN_FILE} cannot be read: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not UTF-8"}
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{run / RUN_FILE}: {where}: {first['msg']}") from error
