"""Who may ask the server: over real sockets, and from a real browser."""

import http.client
import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from curate.report.viewer.guard import cookie_of
from tests.browser.viewing import viewer

pytestmark = pytest.mark.browser
SECRETS = ("root:x:", "[extensions]", "import ", "sample_id")
PATHS = (
    *("/samples/../../etc/passwd", "/samples/..%2f..%2f..%2fetc%2fpasswd", "/samples/%2e%2e/%2e%2e/etc/passwd/image"),
    *("/samples/..%252f..%252fetc%252fpasswd/image", "/samples/%2fetc%2fpasswd/image", "/samples//etc/passwd/image"),
    *("/samples/..\\..\\etc\\passwd/image", "/samples/1/image/../../../../etc/passwd", "/samples/1%00/image"),
    *("/samples/0/image", "/samples/-1/image", "/samples/1000000000/image", "/samples/1e9/image", "/samples/one/image"),
    *("/samples/201/image", "/samples/99999999999999999999999/image", "/samples/1/image?longest=all"),
    *(
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/",
        "/static/app.py",
    ),
    *("/../../../etc/passwd", "//etc/passwd", "/openapi.json", "/docs", "/manifest.parquet", "/annotations.jsonl"),
)


def asked(address: str, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    """The answer to a request that nobody tidied up."""
    headers |= {"Content-Length": str(len(body)), "Content-Type": "application/x-www-form-urlencoded"}
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body.encode())
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_to_a_file(looked_at, path):
    status, text = asked(looked_at.address, "GET", path)
    assert 400 <= status < 500, text[:200]
    assert not any(secret in text for secret in SECRETS)


def test_an_image_is_asked_for_by_rank_alone(looked_at):
    status, text = asked(looked_at.address, "GET", "/samples/1/image?of=../../etc/passwd&path=/etc/passwd")
    assert status == 200
    assert text.startswith("\ufffd\ufffd")  # a JPEG
    assert "JFIF" in text[:20]


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "10.0.0.1", "", "localhost.x"])
def test_another_name_for_this_machine_is_refused(looked_at, host):
    status, text = asked(looked_at.address, "GET", "/", Host=host)
    assert (status, text) == (421, "this server answers to localhost only")


def test_a_page_of_elsewhere_can_say_nothing(own_run):
    with viewer(own_run) as server:
        home = server.address.rstrip("/")
        path, drop = "/samples/1/annotation", "decision=drop"
        for headers in (
            {},
            {"Origin": home},
            {"HX_Request": "true", "Origin": "http://elsewhere.example"},
            {"HX_Request": "true", "Origin": "null"},
            {"HX_Request": "true", "Origin": f"{home}.elsewhere.example"},
            {"HX_Request": "false", "Origin": home},
        ):
            for each in (path, "/selection"):
                assert asked(home, "POST", each, drop, **headers)[0] == 403, headers
        for method in ("PUT", "DELETE", "PATCH"):
            assert asked(home, method, path, drop)[0] == 403
        assert asked(home, "POST", path, drop, HX_Request="true", Origin=home)[0] == 200
    assert not (own_run / "selections").exists()
    assert (own_run / "annotations.jsonl").read_text().count("\n") == 1


def test_a_form_of_elsewhere_can_say_nothing(own_run, open_page, tmp_path, log):
    """As a page that the reviewer has open beside the viewer would try."""
    (own_run / "annotations.jsonl").unlink(missing_ok=True)
    with viewer(own_run) as server:
        log.home.add(server.address)
        page = tmp_path / "elsewhere.html"
        page.write_text(
            f"<form method=post action='{server.address}samples/1/annotation'><input name=decision value=drop>"
            f"<button>Win</button></form><iframe src='{server.address}'></iframe>"
        )
        tab = open_page(page.as_uri())
        assert "Sample" not in (tab.frames[1].locator("body").inner_text() if len(tab.frames) > 1 else "")
        tab.get_by_role("button", name="Win").click()
        expect(tab.get_by_text("this can only be asked for from a page of this server")).to_be_visible()
        log.forgive("frame-ancestors")
        log.forgive("403")
    assert not (own_run / "annotations.jsonl").exists()


def test_from_other_machines_it_takes_a_token(own_run, open_page, log):
    with viewer(own_run, "--host", "0.0.0.0", "--reviewer", "Zoë") as server:
        found = re.fullmatch(r"http://[^/]+:(\d+)/\?token=(\S{32})", server.address)
        assert found, server.address
        port, token = found.groups()
        home = f"http://127.0.0.1:{port}/"
        page = open_page(home)
        expect(page.get_by_text("open the address that curate view printed, with its token")).to_be_visible()
        for path in ("samples/1", "samples/1/image", "static/viewer.js", "jobs", f"?token={token[:-1]}", "?token=ä"):
            response = page.goto(f"{home}{path}")
            assert response
            assert response.status == 401, path
        assert asked(home, "POST", "/selection", HX_Request="true")[0] == 401
        log.forgive("401")
        page.goto(f"{home}?side=kept&token={token}")
        expect(page.get_by_role("article", name="Sample 1", exact=True)).to_be_visible()
        assert page.url == f"{home}?side=kept"
        assert page.evaluate("document.cookie") == ""  # no script reads it
        (cookie,) = page.context.cookies()
        assert (cookie["value"], cookie["httpOnly"], cookie["sameSite"]) == (token, True, "Lax")
        page.get_by_role("button", name="Pin sample 1", exact=True).click()
        expect(page.get_by_role("article", name="Sample 1", exact=True)).to_contain_text("pinned")
        page.goto(f"{home}samples/2")
        assert page.get_by_role("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert asked(home, "GET", "/", Cookie=f"{cookie_of(token)}={token}", Host="lab.example")[0] == 200
