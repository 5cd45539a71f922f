"""The check that a job of `curate sae evaluate` can be done, before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from curate import demo
from curate.datasets.documents import Corpus, open_corpus
from curate.errors import ConfigurationError
from curate.harvest.activations import Harvest
from curate.harvest.evaluate_job import SAEEvaluateJob
from curate.harvest.plan import device_and_dtype
from curate.models.families import inspect_model
from curate.models.family import ModelInfo
from curate.sae.dictionary import DictionaryInfo
from curate.sae.load import inspect_dictionary


@dataclass(frozen=True)
class EvaluatePlan:
    """A job whose data, models and SAEs were found and agree.

    Attributes:
        saes: by name.
        passes: what is harvested, each with the names of the SAEs that read it.
    """

    job: SAEEvaluateJob
    corpus: Corpus
    dataset_sha256: str
    saes: Mapping[str, DictionaryInfo]
    passes: tuple[tuple[Harvest, tuple[str, ...]], ...]

    @property
    def rows(self) -> int:
        """Rows to go through, over all passes."""
        return len(self.corpus) * len(self.passes)


def plan(job: SAEEvaluateJob, known: Mapping[str, DictionaryInfo] = MappingProxyType({})) -> EvaluatePlan:
    """Open the data, look at models and SAEs, and check that they fit; loads no weights.

    Args:
        known: what SAEs are, by name, that were looked at before.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
        DataError: data cannot be read, or the hub cannot be reached.
    """
    corpus = open_corpus(job.dataset)
    saes = {name: known.get(name) or inspect_dictionary(demo.resolve(name, demo.SAE)) for name in job.saes}
    passes = []
    for spec in job.models:
        model = inspect_model(demo.resolve(spec.name, demo.MODEL))
        model = replace(model, name=spec.name)
        device, dtype = device_and_dtype(spec)
        by_layer: dict[int, list[str]] = {}
        for name, sae in saes.items():
            layer = _fitting_layer(name, sae, model, job.hook_layer)
            by_layer.setdefault(layer, []).append(name)
        for layer, names in by_layer.items():
            passes.append((Harvest(corpus, model, layer, dtype, device, job.batch_size), tuple(names)))
    return EvaluatePlan(job, corpus, corpus.fingerprint(), saes, tuple(passes))


def _fitting_layer(name: str, sae: DictionaryInfo, model: ModelInfo, asked: int | None) -> int:
    if sae.d_model != model.d_model:
        raise ConfigurationError(
            f"the SAE {name} reads hidden states of width {sae.d_model}, {model.name} has {model.d_model}: judge it on "
            "the model that it was trained on, or on one of the same width"
        )
    if asked is not None and sae.hook_layer is not None and asked != sae.hook_layer:
        raise ConfigurationError(f"--hook-layer {asked}: the SAE {name} was trained on layer {sae.hook_layer}")
    layer = sae.hook_layer if asked is None else asked
    if layer is None:
        raise ConfigurationError(f"the SAE {name} does not say which layer it reads; name it with --hook-layer")
    if not 0 <= layer < model.n_layers:
        raise ConfigurationError(f"hook layer {layer} of the SAE {name}: {model.name} has 0 to {model.n_layers - 1}")
    return layer
