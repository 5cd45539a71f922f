"""Who may ask: this machine by its own name, others by the token, and only pages of the viewer's for what writes."""

import pytest
from fastapi.testclient import TestClient

from curate.manifest.annotations import ANNOTATIONS
from curate.report.viewer.app import build
from curate.report.viewer.guard import cookie_of, is_loopback
from tests.report.viewer.conftest import viewed

TOKEN = "a-token-of-this-test"


def asked(run, token, host="localhost:8400") -> TestClient:
    return TestClient(build(viewed(run), token), base_url=f"http://{host}", follow_redirects=False)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8400", 200),
        ("127.0.0.1:8400", 200),
        ("127.0.0.5", 200),
        ("[::1]:8400", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.1:8400", 421),
        ("", 421),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_answered(run, host, status):
    assert asked(run, None).get("/", headers={"Host": host}).status_code == status


def test_with_a_token_nothing_is_answered_without_it(run):
    client = asked(run, TOKEN, "gpu-7:8400")
    for path in ("/", "/samples/1/image", "/static/viewer.js", "/style.css", "/jobs", "/?token=other", "/?token="):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert TOKEN not in answer.text


def test_the_token_in_the_address_becomes_a_cookie_and_leaves_the_address(run):
    client = asked(run, TOKEN, "gpu-7:8400")
    answer = client.get(f"/?by=l0&token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?by=l0")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{cookie_of(TOKEN)}={TOKEN};")
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    page = client.get("/")
    assert page.status_code == 200
    assert TOKEN not in page.text


def test_two_viewers_on_one_host_leave_each_other_s_cookie(run):
    assert cookie_of(TOKEN) != cookie_of("another")


@pytest.mark.parametrize("host", ["[", "a]b", "[::1"])
def test_a_host_that_is_no_address_is_refused(run, host):
    assert asked(run, None).get("/", headers={"Host": host}).status_code == 421


def test_a_page_of_elsewhere_starts_no_work(run):
    client = asked(run, None)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    for path in ("/samples/1/explanation", "/samples/1/image", "/answer"):
        assert client.get(path, headers={**elsewhere, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert client.get("/", headers={**elsewhere, "Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8400"},
        {"HX-Request": "true", "Origin": "http://evil.example"},
        {"HX-Request": "true", "Origin": "null"},
        {"HX-Request": "true", "Origin": "http://["},
        {"HX-Request": "true", "Origin": "http://localhost:8401"},
    ],
)
def test_what_writes_is_asked_for_by_pages_of_the_viewer_alone(run, headers):
    client = asked(run, None)
    for path in ("/samples/1/annotation", "/selection"):
        assert client.post(path, data={"decision": "drop"}, headers=headers).status_code == 403
    assert not (run / ANNOTATIONS).exists()
    assert not (run / "selections").exists()
    own = {"HX-Request": "true", "Origin": "http://localhost:8400"}
    assert client.post("/samples/1/annotation", data={"decision": "drop"}, headers=own).status_code == 200


@pytest.mark.parametrize("path", ["/", "/samples/1", "/samples/1/image", "/static/viewer.js", "/nothing", "/jobs/list"])
def test_every_answer_says_what_a_page_may_do(run, path):
    headers = asked(run, None).get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_pages_need_no_script_or_style_but_files(run):
    """What the policy would not let run; a page that had it would be broken without a word."""
    client = asked(run, None)
    for path in ("/", "/?view=table", "/samples/1", "/jobs", "/nothing"):
        page = client.get(path).text
        for inline in ("<style", "style=", "onclick=", "javascript:", "<script>", "hx-on"):
            assert inline not in page, path


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.1.2.3", "gpu-7", "", "127.0.0.1.evil.example")],
)
def test_what_is_this_machine_s_own(host, own):
    assert is_loopback(host) is own
