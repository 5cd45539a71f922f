"""What every page of the viewer starts from: the run that is looked at, and what its address or form says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse
from upath import UPath

from curate.manifest.annotations import Annotation
from curate.manifest.record import RunRecord
from curate.report.pages import environment
from curate.report.viewer.contents import Contents
from curate.report.viewer.look import Look, read_look
from curate.report.viewer.said import Said
from curate.report.viewer.table import Table

if TYPE_CHECKING:  # it imports torch
    from curate.report.viewer.explanations import Explainer


_DECODED_AT_ONCE = 2
SCORED_AGAIN = "{} was scored again, or is being: end curate view, and start it anew then"


@dataclass(frozen=True)
class Viewed:
    """A run that is looked at.

    Attributes:
        manifest: its manifest on this machine; stamp: the file's time and size when it was opened.
        labels: what features are called.
        explainer: None where no model is to be loaded.
        jobs: the address of a cluster's dashboard; None as `curate jobs` has it.
        decoding: held while an image is decoded, which may take 300 MB.
    """

    run: UPath
    record: RunRecord
    manifest: Path
    stamp: tuple[int, int]
    table: Table
    contents: Contents
    said: Said
    labels: Mapping[int, str]
    explainer: "Explainer | None"
    jobs: str | None
    decoding: Semaphore = field(default_factory=partial(Semaphore, _DECODED_AT_ONCE))

    def annotations(self) -> Mapping[str, Annotation]:
        """What people said by now, here or in another viewer of the run; the table knows it, too.

        Raises:
            HTTPException: the run is no longer the one that was opened.
        """
        self._is_the_same()
        return self.said.read(self.table.annotate)

    def _is_the_same(self) -> None:
        if stamp(self.manifest) != self.stamp:
            raise HTTPException(409, SCORED_AGAIN.format(self.run))

    def row(self, rank: int) -> dict[str, Any]:
        """A row of the manifest.

        Raises:
            HTTPException: there is no such rank, or as of `annotations`.
        """
        self._is_the_same()
        if not 1 <= rank <= self.table.scored:
            raise HTTPException(404, f"there is no rank {rank}: there are 1 to {self.table.scored:,}")
        return self.table.rows([rank])[0]


def stamp(file: Path) -> tuple[int, int]:
    """By which to tell that a file was replaced, or is gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _viewed(request: Request) -> Viewed:
    return request.app.state.viewed


Run = Annotated[Viewed, Depends(_viewed)]


def _asked(request: Request, viewed: Run) -> Look:
    return _look(request.query_params.multi_items(), viewed)


async def _posted(request: Request, viewed: Run) -> Look:
    async with request.form() as form:
        return _look([(name, str(value)) for name, value in form.multi_items()], viewed)


def _look(given: list[tuple[str, str]], viewed: Viewed) -> Look:
    look = read_look(given, viewed.table.metrics, viewed.table.columns)
    if look.keep_by == "score" and look.min_score is None and viewed.table.scored:
        lowest = viewed.table.score_at(look.by, viewed.table.keep(look))
        look = look.model_copy(update={"min_score": lowest})
    return look


Asked = Annotated[Look, Depends(_asked)]
Posted = Annotated[Look, Depends(_posted)]


class Pages:
    """Pages and parts of pages, from templates."""

    def __init__(self) -> None:
        self._templates = environment("viewer/templates")
        self._templates.filters["utc"] = _utc

    def render(self, template: str, viewed: Viewed, status: int = 200, /, **given: Any) -> HTMLResponse:
        """A template, with what it needs beside the run."""
        page = self._templates.get_template(f"page/{template}.html")
        text = page.render(run=viewed.run, record=viewed.record, **given)
        return HTMLResponse(text, status)


def _pages(request: Request) -> Pages:
    return request.app.state.pages


Render = Annotated[Pages, Depends(_pages)]


def _utc(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
