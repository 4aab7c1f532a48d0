"""Who may use the viewer: those who have the token of the address that was printed, and the cookie they get for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from functools import cache
from importlib import resources
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from petechia.reports.html import page_template

ENTRIES = ("/", "/read")  # the pages that the token opens
SENTENCE = (
    "This viewer needs its token: open the whole address that petechia serve printed, with its ?token= part. If the viewer "
    "was started again, it has printed a new one."
)


class Access:
    """One viewer's token, and the cookies of its readers.

    A cookie holds a random name and its signature, so the server need not remember who visited. The name tells readers apart,
    and nothing else.

    Attributes:
        token: which the printed address ends with.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._key = secrets.token_bytes(32)

    def reader(self, headers: Headers) -> str | None:
        """The name of the reader who sent a request with a cookie, or with the token in a header; None for a stranger."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return "bearer"
        name, _, signature = cookie_parser(headers.get("cookie", "")).get(_cookie_name(headers), "").partition(".")
        return name if name and _same(signature, self._signature(name)) else None

    def entry(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request for a page whose address has the token in it; None for any other request."""
        if scope["method"] not in ("GET", "HEAD") or scope["path"] not in ENTRIES:
            return None
        fields = _query(scope)
        given = [value for name, value in fields if name == "token"]
        if not given:
            return None
        known = self.reader(headers) is not None
        if not known and not self._is_token(given[-1]):
            return closed_page(scope, wrong=True)
        answer = _onward(_page(scope["path"], fields), headers)
        if not known:
            name = secrets.token_urlsafe(16)
            answer.set_cookie(
                _cookie_name(headers),
                f"{name}.{self._signature(name)}",
                httponly=True,
                samesite="strict",
                secure=scope.get("scheme") == "https",
            )
        return answer

    def _is_token(self, given: str) -> bool:
        return _same(given, self.token)

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, name.encode(errors="replace"), hashlib.sha256).hexdigest()


def closed_page(scope: Scope, wrong: bool = False) -> HTMLResponse:
    """The page for those without the token: its form takes the token, and then opens the page that they asked for.

    Args:
        scope: their request, for a page.
        wrong: whether they gave another token.
    """
    fields = [(name, value) for name, value in _query(scope) if name != "token"]
    return _rendered(401, {"WWW-Authenticate": "Bearer"}, path=scope["path"], fields=fields, wrong=wrong, onward="")


def _query(scope: Scope) -> list[tuple[str, str]]:
    """Names and values in the address of a request; none if there are too many."""
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return []


def _page(path: str, fields: list[tuple[str, str]]) -> str:
    """One of the `ENTRIES`, with its query without the token."""
    query = urlencode([(name, value) for name, value in fields if name != "token"])
    return f"{path}?{query}" if query else path


def _onward(page: str, headers: Headers) -> Response:
    """To a page of this site.

    A browser that comes from another site, such as a terminal in the browser, does not send the new cookie when it is
    redirected. It sends it when this site's own page leads it on.
    """
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return _rendered(200, {}, onward=page)
    return Response(status_code=303, headers={"Location": page})


def _rendered(status: int, headers: dict[str, str], **values: object) -> HTMLResponse:
    style, digest = _style()
    content = page_template("petechia.viewer", "closed.html").render(style=style, **values)
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    return HTMLResponse(content, status, headers | {"Content-Security-Policy": policy})


def _cookie_name(headers: Headers) -> str:
    """Cookies are shared by all ports of a host, so each viewer has its own name."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"petechia-{port}" if port.isdecimal() else "petechia"


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


@cache
def _style() -> tuple[str, str]:
    text = (resources.files("petechia.viewer") / "static" / "closed.css").read_text(encoding="utf-8")
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
