"""Who may ask, and what a page may do: a token, the names that the server answers to, and headers."""

import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from curate.fingerprint import text_sha256

_HEADERS = {
    # All that a page needs comes from here; nothing in it can run that is not a file of ours.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Next = Callable[[Request], Awaitable[Response]]


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, which no other machine can reach."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_of(token: str) -> str:
    """The cookie's name: one of its own for each viewer, for cookies know no ports."""
    return f"curate-{text_sha256(token)[:8]}"


def guard(token: str | None) -> Callable[[Request, Next], Awaitable[Response]]:
    """The middleware that every request goes through.

    Args:
        token: what a request must show, once in its address and then in a cookie; None where only this machine can
            ask, and must name it so: a page of elsewhere whose name was pointed at this machine cannot.
    """

    async def pass_or_refuse(request: Request, go_on: Next) -> Response:
        response = _refused(request, token) or await go_on(request)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return pass_or_refuse


def _refused(request: Request, token: str | None) -> Response | None:
    """The answer to a request that goes no further."""
    if token is None and not is_loopback(_split(f"//{request.headers.get('host', '')}").hostname or ""):
        return PlainTextResponse("this server answers to localhost only", 421)
    if request.headers.get("sec-fetch-site") == "cross-site" and request.headers.get("sec-fetch-mode") != "navigate":
        return PlainTextResponse("this can only be asked for from a page of this server", 403)
    if token is not None:
        if _same(request.query_params.get("token"), token):
            rest = request.url.remove_query_params("token")
            # Without a host, which a proxy before this server may have changed.
            response = RedirectResponse(f"/{rest.path.lstrip('/')}" + (f"?{rest.query}" if rest.query else ""), 303)
            response.set_cookie(cookie_of(token), token, httponly=True, samesite="lax")
            return response
        if not _same(request.cookies.get(cookie_of(token)), token):
            return PlainTextResponse("open the address that curate view printed, with its token", 401)
    if request.method not in ("GET", "HEAD") and not _from_our_page(request):
        return PlainTextResponse("this can only be asked for from a page of this server", 403)
    return None


def _same(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def _from_our_page(request: Request) -> bool:
    """A page of elsewhere cannot set the header, and has another origin."""
    origin = request.headers.get("origin")
    same = origin is None or _split(origin).netloc == request.headers.get("host")
    return same and request.headers.get("hx-request") == "true"


def _split(address: str) -> SplitResult:
    """Of what is no address, nothing."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
