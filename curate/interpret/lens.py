"""A model and an SAE, loaded, to look at samples through: those of a run, or any."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

from upath import UPath

from curate.datasets import Dataset, DatasetSpec, open_dataset
from curate.errors import ConfigurationError, DataError, SampleError
from curate.harvest.plan import device_and_dtype
from curate.manifest.record import WEIGHTS_FOLDER, RunRecord, read_record
from curate.manifest.weights import WEIGHTS_FILE, given_weights
from curate.models import ModelSpec
from curate.models.family import InputBuilder
from curate.sae.dictionary import known_scale
from curate.sae.load import load_dictionary
from curate.sample import Sample
from curate.scoring.pair import agree
from curate.scoring.parameters import ScoringParameters, Text
from curate.scoring.scorer import Scorer


@dataclass(frozen=True)
class Lens:
    """A model and an SAE, loaded, with the parameters and feature weights of scoring.

    Attributes:
        notes: what a reader should know of the SAE.
        run, record, dataset: of the run whose they are; None where they are of none.
    """

    scorer: Scorer
    builder: InputBuilder
    hook_layer: int
    notes: tuple[str, ...] = ()
    run: UPath | None = None
    record: RunRecord | None = None
    dataset: Dataset | None = None

    @property
    def text(self) -> Text:
        """Which of a sample's texts is scored first."""
        return self.scorer.parameters.weights_text


def open_lens(
    model: ModelSpec,
    sae: str,
    parameters: ScoringParameters,
    weights: str | None,
    allow_model_mismatch: bool = False,
    **of_run: Any,
) -> Lens:
    """Load a model up to its hook layer, and an SAE.

    Args:
        weights: a folder of feature weights, or a run with such.
        of_run: the fields of `Lens` that name a run.

    Raises:
        ConfigurationError: they do not fit each other, or the weights.
        DataError: the hub cannot be reached.
    """
    pair = agree(model.name, sae, parameters.hook_layer, allow_model_mismatch)
    record = of_run.get("record")
    if record is not None and (record.hashes.model, record.hashes.sae) != (pair.model.sha256, pair.sae.sha256):
        raise ConfigurationError(
            f"{model.name} or {sae} is no longer what {of_run['run']} was scored with (hashes differ from run.json's)"
        )
    sae_info, parameters = pair.sae, parameters.settled(pair.sae.default_delta)
    device, dtype = device_and_dtype(model)
    weight = measured = None
    if weights is not None:
        hashes = {"model_sha256": pair.model.sha256, "sae_sha256": pair.sae.sha256}
        weight, of_weights = given_weights(weights, hook_layer=pair.hook_layer, **hashes)
        weight, measured = weight.to(device), of_weights.sae_scale
    if measured is None and record is not None and record.sae is not None:
        measured = record.sae.scale
    if sae_info.scale is None:
        sae_info = replace(sae_info, scale=measured)
        if measured is None and record is not None:
            raise ConfigurationError(
                f"{of_run['run']}: {', '.join(record.metrics)} read no activations, so the activation scale of its SAE "
                "was not measured; score again with --metric cosine"
            )
    known_scale(sae_info)
    cut = pair.model.family.load_model(pair.model, pair.hook_layer, dtype, device)
    scorer = Scorer(cut, load_dictionary(sae_info, device), parameters, weight)
    return Lens(scorer, pair.model.family.load_builder(pair.model), pair.hook_layer, pair.notes, **of_run)


def open_run(run: UPath, device: str = "auto") -> Lens:
    """Load what a run was scored with.

    Raises:
        ConfigurationError: model or SAE is no longer what it was, or is not to be had.
        DataError: no run folder, or its data cannot be found.
    """
    record = read_record(run)
    arguments: Any = record.arguments
    parameters = ScoringParameters.model_validate(arguments["parameters"])
    model = ModelSpec(name=arguments["model"]["name"], dtype=record.dtype, device=device)  # type: ignore[arg-type]
    has_weights = f"{WEIGHTS_FOLDER}/{WEIGHTS_FILE}" in record.files
    weights = str(run / WEIGHTS_FOLDER) if has_weights else None
    dataset = open_dataset(DatasetSpec.model_validate(arguments["dataset"]))
    sae, allow = arguments["sae"], arguments["allow_model_mismatch"]
    return open_lens(model, sae, parameters, weights, allow, run=run, record=record, dataset=dataset)


def read_sample(dataset: Dataset, source_row: int, sample_id: str | None = None) -> Sample:
    """A sample of a run's data.

    Args:
        sample_id: what it must still be.

    Raises:
        DataError: the data have changed, or the sample cannot be read.
    """
    position = bisect_left(dataset.rows, source_row)
    found = next((each for _, each in dataset.samples([position])), None) if position < len(dataset) else None
    if isinstance(found, SampleError):
        raise DataError(f"row {source_row} of {dataset.name} cannot be read: {found}")
    if found is None or found.source_row != source_row or sample_id not in (None, found.sample_id):
        raise DataError(f"row {source_row} of {dataset.name} is no longer what was scored: the data have changed")
    return found
