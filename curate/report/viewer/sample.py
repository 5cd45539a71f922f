"""The page of one sample: all that is known of it, its image, why it has its score, and what people say of it."""

import shlex
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Form, HTTPException, Response
from fastapi.responses import HTMLResponse

from curate.errors import SampleError
from curate.manifest.annotations import LONGEST_NOTE
from curate.report.samples import picture
from curate.report.viewer.viewed import Asked, Render, Run

LONGEST_IMAGE = 1600
router = APIRouter(prefix="/samples/{rank}")


@router.get("")
def sample(viewed: Run, look: Asked, pages: Render, rank: int) -> HTMLResponse:
    """The whole page; the samples before and after are those of the page that it was opened from."""
    row, annotations, shown = viewed.row(rank), viewed.annotations(), viewed.table.shown(look)
    place = next(iter(np.flatnonzero(shown == rank)), None)
    return pages.render(
        "sample",
        viewed,
        look=look,
        row=row,
        content=viewed.contents.read({row["source_row"]: row["sample_id"]}).get(row["source_row"]),
        unavailable=viewed.contents.unavailable,
        annotation=annotations.get(row["sample_id"]),
        kept=bool(viewed.table.kept(look)[rank - 1]),
        places={metric: viewed.table.place(metric, rank) for metric in viewed.table.metrics},
        previous=shown[place - 1] if place else None,
        next=shown[place + 1] if place is not None and place + 1 < len(shown) else None,
        place=None if place is None else int(place) + 1,
        n_shown=len(shown),
        labels=viewed.labels,
        explains=viewed.explainer is not None,
        explain_command=shlex.join(["curate", "explain", str(viewed.run), f"#{rank}"]),
        longest_note=LONGEST_NOTE,
    )


@router.get("/image")
def image(viewed: Run, rank: int, longest: int = LONGEST_IMAGE) -> Response:
    """The image, decoded and encoded anew. A page's address of it has the sample's id, so a browser may keep it."""
    row = viewed.row(rank)
    content = viewed.contents.read({row["source_row"]: row["sample_id"]}).get(row["source_row"])
    if content is None:
        raise HTTPException(404, "the data no longer hold this sample")
    try:
        with viewed.decoding:
            data = picture(content.image, min(max(longest, 1), LONGEST_IMAGE))
    except SampleError as error:
        raise HTTPException(404, str(error)) from error
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


@router.get("/explanation")
def explanation(viewed: Run, look: Asked, pages: Render, rank: int) -> HTMLResponse:
    """Why the sample has its score by the metric, which takes the model."""
    viewed.row(rank)
    if viewed.explainer is None:
        raise HTTPException(404, "start curate view with --explain, which loads the model")
    return pages.render("explanation", viewed, shown=viewed.explainer.explain(rank, look.by))


@router.post("/annotation")
def annotate(
    viewed: Run,
    look: Asked,
    pages: Render,
    rank: int,
    decision: Annotated[Literal["keep", "drop", "none"] | None, Form()] = None,
    pinned: Annotated[bool | None, Form()] = None,
    note: Annotated[str, Form(max_length=LONGEST_NOTE)] = "",
    noting: Annotated[bool, Form()] = False,
    given: Annotated[str, Form(max_length=2 * LONGEST_NOTE)] = "",
    whole: Annotated[bool, Form()] = False,
    of: Annotated[str | None, Form()] = None,
) -> HTMLResponse:
    """Say something of the sample; what is not said stays as it was.

    Args:
        noting: the note was sent; an empty one, which takes it away, looks like none.
        given: the note as the page had it; one that is the same was not written here, and may be old by now.
        whole: answer with the form for notes, too.
        of: the id of the sample that the page shows, which may be older than this server.
    """
    row = viewed.row(rank)
    if of not in (None, row["sample_id"]):
        raise HTTPException(409, f"rank {rank} is another sample by now: open the page anew")
    changed: dict[str, Any] = {}
    if decision is not None:
        changed["decision"] = None if decision == "none" else decision
    if pinned is not None:
        changed["pinned"] = pinned
    if noting and (written := _plain(note)) != _plain(given):
        changed["note"] = written
    viewed.said.say(row["sample_id"], changed)
    response = pages.render(
        "said",
        viewed,
        look=look,
        row=row,
        annotation=viewed.annotations()[row["sample_id"]],
        kept=bool(viewed.table.kept(look)[rank - 1]),
        whole=whole,
        longest_note=LONGEST_NOTE,
    )
    response.headers["HX-Trigger"] = "annotated"
    return response


def _plain(note: str) -> str:
    return note.replace("\r\n", "\n").strip()
