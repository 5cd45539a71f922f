"""What a page is asked to show: everything in its address, checked."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from pydantic import BaseModel, Field, ValidationError

from curate.errors import ConfigurationError

DEFAULT_RATIO = Decimal("0.2")
LEAST, MOST = "least.", "most."


class Range(NamedTuple):
    """Bounds of a column, both included; None is none."""

    column: str
    least: float | None
    most: float | None


class Filters(BaseModel, frozen=True, extra="forbid"):
    """Which rows are shown. They decide nothing about what is kept."""

    labels: tuple[str, ...] = ()
    unlabelled: bool = False
    ranges: tuple[Range, ...] = ()
    side: Literal["all", "kept", "dropped"] = "all"
    said: Literal["anything", "pinned", "noted", "overridden"] = "anything"

    @property
    def any(self) -> bool:
        """Whether they leave rows out."""
        return self != Filters()

    def range_of(self, column: str) -> Range:
        """The bounds of a column."""
        return next((each for each in self.ranges if each.column == column), Range(column, None, None))


class Look(BaseModel, frozen=True, extra="forbid"):
    """A page of the manifest.

    Attributes:
        by: the metric that the rule goes by; ratio or min_score: the rule, of which there is one.
        sort: the column that rows are ordered by; without, the metric, as a selection orders them.
    """

    by: str
    keep_by: Literal["ratio", "score"] = "ratio"
    ratio: Decimal = Field(default=DEFAULT_RATIO, gt=0, le=1)
    min_score: float | None = Field(default=None, allow_inf_nan=False)
    filters: Filters = Filters()
    sort: str | None = None
    ascending: bool = False
    view: Literal["gallery", "table"] = "gallery"
    page: int = Field(default=1, ge=1, le=2**31)

    @property
    def rule(self) -> dict[str, Any]:
        """The rule, as `SelectJob` has it."""
        if self.keep_by == "score" and self.min_score is not None:
            return {"by": self.by, "min_score": self.min_score}
        return {"by": self.by, "ratio": self.ratio}

    def address(self, **changed: Any) -> str:
        """The query of this look's address, or of one with other values of some fields, without what is by default."""
        look = self.model_copy(update=changed)
        pairs: list[tuple[str, Any]] = [("by", look.by)]
        plain = (name for name in _PLAIN if name != "min_score" or look.keep_by == "score")
        pairs += [(name, getattr(look, name)) for name in plain if getattr(look, name) != _default(Look, name)]
        pairs += [("label", label) for label in look.filters.labels]
        for column, *bounds in look.filters.ranges:
            pairs += [
                (end + column, bound) for end, bound in zip((LEAST, MOST), bounds, strict=True) if bound is not None
            ]
        filters = ((name, getattr(look.filters, name)) for name in _OF_FILTERS)
        pairs += [(name, value) for name, value in filters if value != _default(Filters, name)]
        return urlencode(pairs)


_PLAIN = ("keep_by", "ratio", "min_score", "sort", "ascending", "view", "page")
_OF_FILTERS = ("side", "said", "unlabelled")


def _default(model: type[BaseModel], name: str) -> Any:
    return model.model_fields[name].default


def read_look(query: Iterable[tuple[str, str]], metrics: list[str], columns: list[str]) -> Look:
    """The look that an address asks for.

    Args:
        query: names and values; empty values say nothing.
        metrics: that the run computed, the one ranked by first.
        columns: that rows can be ordered and filtered by.

    Raises:
        ConfigurationError: it asks for what there is not.
    """
    labels: list[str] = []
    bounds: dict[str, dict[str, float]] = {}
    fields: dict[str, Any] = {"by": metrics[0]}
    filters: dict[str, Any] = {}
    for name, value in query:
        end = next((end for end in (LEAST, MOST) if name.startswith(end)), None)
        if value == "":
            continue
        if name == "label":
            labels.append(value)
        elif end is not None:
            bounds.setdefault(name.removeprefix(end), {})[end] = _number(name, value)
        elif name in _OF_FILTERS:
            filters[name] = value
        elif name in ("by", *_PLAIN):
            fields[name] = value
        else:
            raise ConfigurationError(f"a page's address has no {name}")
    ranges = tuple(Range(name, found.get(LEAST), found.get(MOST)) for name, found in bounds.items())
    try:
        look = Look(**fields, filters=Filters(labels=tuple(labels), ranges=ranges, **filters))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if look.by not in metrics:
        raise ConfigurationError(f"by: the run has {', '.join(metrics)}, and not {look.by}")
    for column in [each.column for each in ranges] + [look.sort or look.by]:
        if column not in columns:
            raise ConfigurationError(f"there is no column {column}; there are {', '.join(columns)}")
    return look


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {value} is not a number") from error
