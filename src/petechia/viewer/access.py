"""Who may use the viewer: those who have the token of the address that was printed, and the cookie they get for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from functools import cache
from importlib import resources
from urllib.parse import parse_qs

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
        try:
            given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=20).get("token")
        except ValueError:  # too many fields
            return None
        if given is None:
            return None
        known = self.reader(headers) is not None
        if not known and not self._is_token(given[-1]):
            return closed_page(wrong=True)
        answer = _onward(scope["path"], headers)
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


def closed_page(wrong: bool = False, onward: str = "") -> HTMLResponse:
    """The page for those without the token.

    Args:
        wrong: whether they gave another token.
        onward: where those go who have it; their page says no more than that.
    """
    style, digest = _style()
    content = page_template("petechia.viewer", "closed.html").render(wrong=wrong, onward=onward, style=style)
    headers = {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    }
    return HTMLResponse(content, 200 if onward else 401, headers if onward else headers | {"WWW-Authenticate": "Bearer"})


def _onward(path: str, headers: Headers) -> Response:
    """To the same page, without the token in its address.

    A browser that comes from another site, such as a terminal in the browser, does not send the new cookie when it is
    redirected. It sends it when this site's own page leads it on.
    """
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return closed_page(onward=path)
    return Response(status_code=303, headers={"Location": path})


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
