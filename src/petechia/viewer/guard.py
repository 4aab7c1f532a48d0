"""Refuse strangers' requests and those from other websites, and set the security headers of every answer."""

from __future__ import annotations

import ipaddress
import logging
import re
import traceback
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from petechia.viewer.access import ENTRIES, SENTENCE, Access, closed_page

LOGGER = logging.getLogger(__name__)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MOST_HEADER = 32 * 1024  # bytes
CLOSE = {"Connection": "close"}  # what remains of the request is not read
HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)


class Guard:
    """Passes on only requests of readers, from the viewer's own pages, and adds the security headers to every answer.

    The name of the reader is in the scope, as "reader".

    An unexpected error of the application becomes a sentence here. Only its type and place are logged: its message may quote an
    uploaded file, and with it a patient.
    """

    def __init__(self, app: ASGIApp, hosts: set[str], access: Access) -> None:
        """Stand between the server and the application.

        Args:
            app: the application.
            hosts: names of this server, besides localhost and numeric addresses.
            access: knows the readers.
        """
        self._app, self._access = app, access
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = False

        async def send_with_headers(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            await (self._refused(scope, Headers(scope=scope)) or self._app)(scope, receive, send_with_headers)
        except ClientDisconnect:
            return
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            LOGGER.error("%s in %s, line %s", type(error).__name__, place.filename, place.lineno)
            if not answering:
                failure = refusal(500, "The viewer failed on this request; the error is in its terminal.")
                await failure(scope, receive, send_with_headers)

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that is not passed on; sets the reader of one that is."""
        if (malformed := _malformed(scope, headers)) is not None:
            return malformed
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self._is_own(host):
            return refusal(
                421, "The viewer does not answer under this address; use the one that petechia serve printed.", CLOSE
            )
        if (entry := self._access.entry(scope, headers)) is not None:
            return entry
        foreign = origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}")
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return refusal(403, "Other websites cannot use this viewer.", CLOSE)
        scope["reader"] = self._access.reader(headers)
        if scope["reader"] is None:
            refused = refusal(401, SENTENCE, CLOSE | {"WWW-Authenticate": "Bearer"})
            return closed_page(scope) if scope["path"] in ENTRIES else refused
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this server.

        Numeric addresses always do: another website can make its own name lead here (DNS rebinding), but not a number. The port
        may differ, as behind a tunnel.
        """
        found = HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"] or found["v6"]
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _malformed(scope: Scope, headers: Headers) -> Response | None:
    """The answer to a request that the web server takes, but that is ambiguous or too long."""
    if "transfer-encoding" in headers and ("content-length" in headers or scope["http_version"] == "1.0"):
        # Where it ends is not clear; a proxy in between may see two requests in it.
        return refusal(400, "A request has a Content-Length or a Transfer-Encoding, not both.", CLOSE)
    if len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers.raw) > MOST_HEADER:
        return refusal(431, f"The header of a request has at most {MOST_HEADER // 1024} KiB.", CLOSE)
    return None


def refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as JSON: one sentence in `detail`."""
    return JSONResponse({"detail": sentence}, status, headers)
