"""Features as a report lists them: what they weigh, and in how many kept samples they are among the strongest."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from upath import UPath

from curate.errors import ConfigurationError
from curate.interpret.live import LiveFeatures, live_features
from curate.manifest.record import MANIFEST, RunRecord
from curate.manifest.verify import read_tables


@dataclass(frozen=True)
class Named:
    """A feature of a sample, with what it adds to `cosine`."""

    feature: int
    contribution: float
    label: str | None


@dataclass(frozen=True)
class Feature:
    """A feature of the SAE.

    Attributes:
        weight: None if it has none.
        fires: on what it fires, in words; None without peaks.
        kept: share of kept samples that it is among the strongest features of; dropped: of the others.
    """

    feature: int
    label: str | None
    weight: float | None
    fires: str | None
    text_peak: float | None
    image_peak: float | None
    kept: float
    dropped: float


@dataclass(frozen=True)
class Features:
    """The features of a run.

    Attributes:
        live: None for a run without feature weights.
        unavailable: why.
        heaviest: of the largest weight; frequent: those most often among the strongest of kept samples.
    """

    live: LiveFeatures | None
    unavailable: str | None
    heaviest: tuple[Feature, ...]
    frequent: tuple[Feature, ...]


def read_features(
    run: UPath, record: RunRecord, kept: Bool[np.ndarray, " rows"], labels: Mapping[int, str], most: int
) -> Features:
    """Read a run's feature weights, and count the features of its samples.

    Args:
        kept: of each row of the manifest.

    Raises:
        DataError: the manifest cannot be read.
    """
    live, unavailable = None, None
    if record.hashes.weights is None:
        unavailable = "no metric of this run needs feature weights; curate score --metric cosine computes them"
    else:
        try:
            live = live_features(run, record.delta)
        except ConfigurationError as error:
            unavailable = str(error)
    in_kept, in_dropped = _counted(run, kept)
    n_kept = int(kept.sum())

    def feature(number: int) -> Feature:
        known = live is not None and 0 <= number < len(live.weight)
        weight = float(live.weight[number]) if live is not None and known else 0.0
        return Feature(
            feature=number,
            label=labels.get(number),
            weight=weight or None,
            fires=_fires(live, number) if live is not None and known else None,
            text_peak=float(live.text_peak[number]) if live is not None and known else None,
            image_peak=float(live.image_peak[number]) if live is not None and known else None,
            kept=in_kept[number] / max(1, n_kept),
            dropped=in_dropped[number] / max(1, len(kept) - n_kept),
        )

    frequent = sorted(in_kept, key=lambda number: (-in_kept[number], number))[:most]
    return Features(
        live,
        unavailable,
        tuple(map(feature, live.heaviest(most))) if live is not None else (),
        tuple(map(feature, frequent)),
    )


def named(top_features: Iterable[Mapping[str, float]], labels: Mapping[int, str]) -> tuple[Named, ...]:
    """A manifest row's `top_features`."""
    return tuple(
        Named(int(each["feature"]), each["contribution"], labels.get(int(each["feature"]))) for each in top_features
    )


def _counted(run: UPath, kept: Bool[np.ndarray, " rows"]) -> tuple[Counter[int], Counter[int]]:
    """In how many kept samples each feature is among the strongest, and in how many others."""
    in_kept, in_dropped = Counter[int](), Counter[int]()
    seen = 0
    for table in read_tables(run, MANIFEST, ["top_features"]):
        lists = table["top_features"].combine_chunks()
        features = lists.flatten().field("feature").to_numpy()
        of_row = np.repeat(kept[seen : seen + table.num_rows], lists.value_lengths().fill_null(0).to_numpy())
        seen += table.num_rows
        for counter, chosen in ((in_kept, features[of_row]), (in_dropped, features[~of_row])):
            found, counts = np.unique(chosen, return_counts=True)
            counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    return in_kept, in_dropped


def _fires(live: LiveFeatures, feature: int) -> str:
    on_text, on_image = bool(live.on_text[feature]), bool(live.on_image[feature])
    return {(True, True): "text and image", (True, False): "text", (False, True): "image"}.get(
        (on_text, on_image), "nothing"
    )
