"""The pages of a cluster's jobs, as `curate jobs`, `curate status` and `curate logs` tell of them."""

from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from curate.errors import CurateError
from curate.report.viewer.viewed import Render, Run

if TYPE_CHECKING:  # it imports Ray, which a viewer of one run on one machine has no use for
    from curate.jobs.cluster import Cluster, Submission

_LINES = 400
router = APIRouter(prefix="/jobs")


class Listed(NamedTuple):
    """A job, and the last line it printed or, when it has ended, what Ray says."""

    job: "Submission"
    last_line: str


class Submissions(NamedTuple):
    """All jobs, the latest first, or why there are none to show."""

    jobs: list[Listed]
    unavailable: str | None = None


@router.get("")
def jobs(viewed: Run, pages: Render) -> HTMLResponse:
    """The whole page."""
    return pages.render("jobs", viewed, listing=_listing(viewed.jobs))


@router.get("/list")
def list_jobs(viewed: Run, pages: Render) -> HTMLResponse:
    """The table, which the page asks for every few seconds."""
    return pages.render("jobs_list", viewed, listing=_listing(viewed.jobs))


@router.get("/job/{name}")
def job(viewed: Run, pages: Render, name: str) -> HTMLResponse:
    """One job and what it prints."""
    return pages.render("job", viewed, name=name, **_one(viewed.jobs, name))


@router.get("/job/{name}/state")
def job_state(viewed: Run, pages: Render, name: str) -> HTMLResponse:
    """The part of it that changes."""
    return pages.render("job_state", viewed, name=name, **_one(viewed.jobs, name))


def _listing(address: str | None) -> Submissions:
    try:
        cluster = _cluster(address)
        return Submissions([Listed(each, _last_line(cluster, each)) for each in reversed(cluster.list())])
    except CurateError as error:
        return Submissions([], str(error))


def _one(address: str | None, name: str) -> dict[str, Any]:
    cluster = _cluster(address)
    submission = cluster.status(name)
    lines = _logs(cluster, name).splitlines()
    return {"submission": submission, "lines": lines[-_LINES:], "cut": len(lines) > _LINES}


def _cluster(address: str | None) -> "Cluster":
    from curate.jobs.cluster import Cluster

    return Cluster(address)


def _logs(cluster: "Cluster", name: str) -> str:
    try:
        return cluster.logs(name)
    except CurateError:  # its node may be gone
        return ""


def _last_line(cluster: "Cluster", job: "Submission") -> str:
    """Of a job that has ended, what Ray says of it: its log may be long, and no longer changes."""
    lines = job.message.splitlines()[:1] if job.done else reversed(_logs(cluster, job.id).splitlines())
    return next((line for line in lines if line.strip()), "")
