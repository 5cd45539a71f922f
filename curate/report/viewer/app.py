"""The viewer as a web application: its pages, its files, and what it says when something is wrong."""

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from curate.errors import ConfigurationError, CurateError
from curate.report.viewer import browse, jobs, sample
from curate.report.viewer.guard import guard
from curate.report.viewer.viewed import Pages, Viewed

HERE = Path(__file__).parent
SHARED_STYLE = HERE.parent / "templates" / "style.css"


def build(viewed: Viewed, token: str | None) -> FastAPI:
    """The application.

    Args:
        token: see `guard`.
    """
    app = FastAPI(openapi_url=None)  # whose page would load scripts from elsewhere
    app.state.viewed, app.state.pages = viewed, Pages()
    app.middleware("http")(guard(token))
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    for room in (browse, sample, jobs):
        app.include_router(room.router)
    app.add_api_route("/style.css", lambda: FileResponse(SHARED_STYLE, media_type="text/css"))
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204))
    for error, handler in ((CurateError, _ours), (HTTPException, _refused), (RequestValidationError, _invalid)):
        app.add_exception_handler(error, handler)
    return app


def _ours(request: Request, error: Exception) -> Response:
    return _failure(request, 400 if isinstance(error, ConfigurationError) else 500, str(error))


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failure(request, error.status_code, str(error.detail))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _failure(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")


def _failure(request: Request, status: int, reason: str) -> Response:
    """A page, or, where a part of one was asked for, a line that the page shows."""
    if request.headers.get("hx-request"):
        return PlainTextResponse(reason, status)
    state = request.app.state
    return state.pages.render("error", state.viewed, status, reason=reason)
