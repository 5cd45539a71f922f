"""The page of all samples: what a rule keeps, a gallery or table of what is shown, and the selection to export."""

import shlex
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from curate.manifest.annotations import overrides
from curate.manifest.record import read_record
from curate.manifest.select import SelectJob, select
from curate.report.viewer.look import Look
from curate.report.viewer.viewed import SCORED_AGAIN, Asked, Posted, Render, Run, Viewed

ON_PAGE = {"gallery": 24, "table": 50}
router = APIRouter()


@router.get("/")
def browse(viewed: Run, look: Asked, pages: Render) -> HTMLResponse:
    """The whole page."""
    return pages.render("browse", viewed, table=viewed.table, **(_answered(viewed, look) | _listed(viewed, look)))


@router.get("/answer")
def answer(viewed: Run, look: Asked, pages: Render) -> HTMLResponse:
    """What the rule keeps: what changes while the slider moves."""
    return pages.render("answer", viewed, **_answered(viewed, look))


@router.get("/list")
def list_rows(viewed: Run, look: Asked, pages: Render) -> HTMLResponse:
    """One page of samples; the browser's address follows."""
    found = _listed(viewed, look)
    response = pages.render("list", viewed, table=viewed.table, **found)
    response.headers["HX-Push-Url"] = f"/?{found['look'].address()}"
    return response


@router.get("/find")
def find(viewed: Run, sample: str) -> RedirectResponse:
    """The page of the sample that is meant."""
    rank = viewed.table.find(sample)
    if rank is None:
        raise HTTPException(404, f"no sample is called {sample}: give a rank, or at least 4 digits of an id")
    return RedirectResponse(f"/samples/{rank}", 303)


@router.post("/selection")
def export(viewed: Run, look: Posted, pages: Render) -> HTMLResponse:
    """Write what `curate select` would."""
    viewed.annotations()
    if read_record(viewed.run).run_hash != viewed.record.run_hash:  # of a run elsewhere, there is only a copy here
        raise HTTPException(409, SCORED_AGAIN.format(viewed.run))
    job = _job(viewed, look)
    folder, selection = select(job)
    return pages.render("exported", viewed, folder=folder, selection=selection, command=_command(job))


def _answered(viewed: Viewed, look: Look) -> dict[str, Any]:
    viewed.annotations()
    found = viewed.table.answer(look)
    highest = max((each.kept + each.dropped for each in found.bins), default=0)
    return {"look": look, "answer": found, "highest": highest, "command": _command(_job(viewed, look))}


def _listed(viewed: Viewed, look: Look) -> dict[str, Any]:
    annotations = viewed.annotations()
    shown, size = viewed.table.shown(look), ON_PAGE[look.view]
    pages = max(1, -(-len(shown) // size))
    look = look.model_copy(update={"page": min(look.page, pages)})
    first = (look.page - 1) * size
    rows = viewed.table.rows(shown[first : first + size])
    kept = viewed.table.kept(look)
    return {
        "look": look,
        "rows": rows,
        "pages": pages,
        "first": first,
        "n_shown": len(shown),
        "contents": viewed.contents.read({row["source_row"]: row["sample_id"] for row in rows}),
        "unavailable": viewed.contents.unavailable,
        "annotations": annotations,
        "kept": {row["rank"]: bool(kept[row["rank"] - 1]) for row in rows},
    }


def _job(viewed: Viewed, look: Look) -> SelectJob:
    """The selection that the rule and people's decisions make."""
    decided = overrides(viewed.said.read().values())
    return SelectJob(run=str(viewed.run), overrides=str(viewed.said.file) if decided else None, **look.rule)


def _command(job: SelectJob) -> str:
    """The same for the terminal."""
    options = job.model_dump(include={"by", "ratio", "min_score", "overrides"}, exclude_none=True)
    words = (word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value)))
    return shlex.join(["curate", "select", job.run, *words])
