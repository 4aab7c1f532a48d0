"""Nobody sees anything without the token, and the token stays out of sight."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from petechia.cli import app as cli
from petechia.data.formats.images import encode_png
from petechia.study import Run
from petechia.viewer.access import Access
from petechia.viewer.pictures import MOST_EACH
from petechia.viewer.subject import Subject
from tests.viewer.conftest import client_of, serving
from tests.viewer.test_app import PIXELS, ask, open_test

RESOURCES = ("/report.css", "/static/read.js", "/api/session", "/api/test/0", "/api/images/test-0/levels", "/nothing")


def test_every_resource_needs_the_token(subject: Subject) -> None:
    stranger = client_of(subject, enter=False)
    for path in RESOURCES:
        refused = stranger.get(path)
        assert refused.status_code == 401, path
        assert refused.json()["detail"].startswith("This viewer needs its token: open the whole address")
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/api/images", "/api/explain", "/api/screen"):
        assert stranger.post(path, content=b"x").status_code == 401
    for path in ("/", "/read"):
        page = stranger.get(path)
        assert page.status_code == 401
        assert "This viewer opens with its whole address" in page.text
        assert "sha256-" in page.headers["content-security-policy"]
        assert not page.cookies
    reader = client_of(subject)
    assert [reader.get(path).status_code for path in RESOURCES] == [200] * 5 + [404]


@pytest.mark.parametrize(
    "given", ["", "x", "é", "\0", "%ff", "a" * 1000, "petechia", Access().token], ids=lambda given: f"{len(given)}"
)
def test_other_tokens_and_cookies_do_not_let_in(subject: Subject, given: str) -> None:
    client = client_of(subject, enter=False)
    page = client.get("/", params={"token": given})
    assert page.status_code == 401
    assert "is not the one of this viewer" in page.text
    assert not page.cookies
    for header in (
        {"authorization": f"Bearer {given}".encode()},
        {"cookie": f"petechia={given}.{given}".encode()},
        {"cookie": f"petechia={client.access.token}".encode()},
    ):
        assert client.get("/api/session", headers=header).status_code == 401


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get(subject: Subject) -> None:
    client = client_of(subject, enter=False)
    token = client.access.token
    entered = client.get("/read", params={"token": token}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/read")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert token not in cookie
    assert entered.headers["referrer-policy"] == "no-referrer"
    assert entered.headers["cache-control"] == "no-store"
    assert client.get("/read").status_code == 200
    assert token not in client.get("/read").text
    again = client.get("/", params={"token": token}, follow_redirects=False)
    assert again.status_code == 303
    assert "set-cookie" not in again.headers  # the reader stays the same


@pytest.mark.parametrize(
    ("asked", "location"),
    [
        ("/read?study=1.3&series=1.4&token={}", "/read?study=1.3&series=1.4"),
        ("/read?token={}&study=1.3", "/read?study=1.3"),
        ("/?study=a%26token%3Db%0d%0aX: 1&token={}", "/?study=a%26token%3Db%0D%0AX%3A+1"),
        ("/read?next=//evil.example&token={}", "/read?next=%2F%2Fevil.example"),
        ("/read?token=wrong&token={}", "/read"),
    ],
)
def test_who_signs_in_lands_on_what_was_asked_for_and_nowhere_else(subject: Subject, asked: str, location: str) -> None:
    client = client_of(subject, enter=False)
    entered = client.get(asked.format(client.access.token), follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, location)


class Elements(HTMLParser):
    """The elements of a page: their names and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_closed_page_asks_for_the_token_and_keeps_what_was_asked_for(subject: Subject) -> None:
    page = client_of(subject, enter=False).get("/read?study=1.3&series=%22%3E%3Cscript%3E&token=wrong")
    assert page.status_code == 401
    found = Elements(page.text).found
    assert [given for tag, given in found if tag == "form"] == [{"action": "/read"}]
    fields = {given["name"]: given.get("value") for tag, given in found if tag == "input"}
    assert fields == {"study": "1.3", "series": '"><script>', "token": None}
    assert not any(tag == "script" for tag, _ in found)


def test_a_form_in_the_browser_opens_the_page_that_was_asked_for(browser: Any, subject: Subject) -> None:
    with serving(subject) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/read?study=1.3")
        page.get_by_label("Token").fill(address.page("/read").partition("token=")[2])
        page.get_by_role("button").click()
        page.wait_for_url(f"{address}/read?study=1.3")
        assert page.locator("#about").count() == 1
        context.close()


def test_tokens_are_long_and_new_at_every_start() -> None:
    tokens = {Access().token for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 32  # of 64 letters: 192 bits


def test_a_cookie_of_another_viewer_or_port_does_not_let_in(subject: Subject) -> None:
    first, second = client_of(subject), client_of(subject)
    second.cookies = first.cookies
    assert second.get("/api/session").status_code == 401
    assert first.get("/api/session", headers={"host": "127.0.0.1:81"}).status_code == 401


def test_scripts_may_give_the_token_in_a_header(subject: Subject) -> None:
    client = client_of(subject, enter=False)
    assert client.get("/api/session", headers={"authorization": f"Bearer {client.access.token}"}).status_code == 200


def test_whoever_comes_from_another_site_with_the_token_is_led_on_by_a_page_of_ours(subject: Subject) -> None:
    client = client_of(subject, enter=False)
    page = client.get("/read", params={"token": client.access.token}, headers={"sec-fetch-site": "cross-site"})
    assert page.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/read">' in page.text
    assert client.get("/api/session").status_code == 200
    assert client.get("/read", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    elsewhere = client.get("/read", params={"token": client.access.token}, headers={"host": "evil.example"})
    assert elsewhere.status_code == 421


def test_only_the_pages_take_the_token_from_their_address(subject: Subject) -> None:
    client = client_of(subject, enter=False)
    for path in ("/api/session", "//evil.example", "/static/read.js"):
        assert client.get(f"http://127.0.0.1{path}", params={"token": client.access.token}).status_code == 401
    assert client.post("/read", params={"token": client.access.token}).status_code == 401


def test_one_reader_cannot_push_out_the_others_images(subject: Subject) -> None:
    modest = client_of(subject)
    image = modest.post("/api/images", content=encode_png(PIXELS)).json()["image"]
    greedy = client_of(subject, beside=modest)
    names = [greedy.post("/api/images", content=encode_png(PIXELS)).json()["image"] for _ in range(MOST_EACH + 2)]
    assert [ask(greedy, name).status_code for name in (names[0], names[1], names[2], image)] == [400, 400, 200, 200]
    assert ask(modest, image).status_code == 200


def test_serve_prints_the_whole_address_and_a_warning(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_given: Any, **named: Any) -> None:
        named["started"]("http://ward-7:8765/?token=abc", private)

    monkeypatch.setattr("petechia.serve", serve)
    said = {}
    for private in (True, False):
        said[private] = CliRunner().invoke(cli, ["serve", str(finished.directory.path)]).output
        assert "Viewer: http://ward-7:8765/?token=abc (stop" in said[private]
        assert "Whoever has this address" in said[private]
    assert "not encrypted" in said[False]
    assert "not encrypted" not in said[True]


def test_open_test_needs_no_more_than_a_cookie(subject: Subject) -> None:
    assert open_test(client_of(subject))["image"] == "test-0"
