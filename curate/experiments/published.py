"""The SAE-V paper's own figures, beside those of a sweep over the same model and data."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field

from curate.evaluation.benches import LAYOUTS
from curate.experiments.sweep_job import FULL
from curate.metrics import METRICS
from curate.scoring.parameters import REJECTED
from curate.training.job import Method

FILE = Path(__file__).with_name("saev.json")


class Figure(BaseModel):
    """One published score."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(description="the last part of its name on the hub")
    dataset: str
    metric: str | None = Field(description="the samples were selected by; None where it is not known which")
    ratio: float
    score: float
    percent_of_all_data: float = Field(description="the score over that of training on all data, in %")


class Published(BaseModel):
    """The whole of `saev.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    bench: str
    figures: tuple[Figure, ...]


class Comparison(BaseModel):
    """One published score, and what a sweep found at the same position of its grid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    bench: str = Field(description="as the source names it")
    method: Method
    metric: str
    ratio: float
    score: float
    percent_of_all_data: float
    here: float | None = Field(description="mean relative score over seeds; None where the sweep has none there")
    here_percent_of_all_data: float | None


def comparisons(
    model: str, dataset: str, bench: str, found: Mapping[tuple[Method, str, float], float]
) -> tuple[Comparison, ...]:
    """The published figures of this model, data set and kind of bench; none where the names are others.

    Args:
        found: mean relative scores of a sweep, by method, metric and ratio.
    """
    published = Published.model_validate_json(FILE.read_text(encoding="utf-8"))
    if bench not in LAYOUTS:
        return ()
    name = PurePosixPath(model).name.lower()
    same = [each for each in published.figures if (each.model, each.dataset) == (name, dataset)]
    # The figures as known here do not say whether SFT or DPO came to them: they stand beside both.
    methods: list[Method] = list(dict.fromkeys(method for method, _, _ in found))
    return tuple(line for method in methods for figure in same for line in _beside(published, figure, method, found))


def _beside(
    published: Published, figure: Figure, method: Method, found: Mapping[tuple[Method, str, float], float]
) -> Iterator[Comparison]:
    on_all = found.get((method, FULL, 1.0))
    for metric in [figure.metric] if figure.metric else _of_features(found):
        here = found.get((method, metric, figure.ratio))
        yield Comparison(
            source=published.source,
            bench=published.bench,
            method=method,
            metric=metric,
            ratio=figure.ratio,
            score=figure.score,
            percent_of_all_data=figure.percent_of_all_data,
            here=here,
            here_percent_of_all_data=100 * here / on_all if here is not None and on_all else None,
        )


def _of_features(found: Mapping[tuple[Method, str, float], float]) -> list[str]:
    """The metrics of a sweep that read features: those that a figure without a metric may be of."""
    swept = dict.fromkeys(metric for _, metric, _ in found if metric != FULL)
    return [metric for metric in swept if METRICS[metric.removesuffix(REJECTED)].reads_activations]
