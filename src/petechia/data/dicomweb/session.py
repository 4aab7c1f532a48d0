"""HTTP with a PACS that is not trusted: what it answers is bounded in size and time, and leads nowhere else."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from petechia.core.budget import VARIABLE, limit
from petechia.core.errors import PetechiaError, first_line, printable
from petechia.data.dicomweb.address import TOKEN, USER, Address

CONNECT, SILENCE = 10.0, 30.0  # seconds until a connection stands, and between two pieces of an answer
CHUNK = 1 << 16
AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})  # states that pass


class PacsAwayError(PetechiaError):
    """The PACS cannot be reached, or is too busy to answer, now."""


class BrokenError(PacsAwayError):
    """The PACS failed to answer (500): it may be in trouble, or at odds with one object."""


class RefusedError(PetechiaError):
    """The PACS does not do what was asked, and will not do it later."""


class ForbiddenError(RefusedError):
    """The PACS does not allow it (403)."""


class GoneError(PetechiaError):
    """The PACS does not have what was asked for."""


class ConflictError(PetechiaError):
    """The PACS does not take what it was given to store."""


class LargeAnswerError(PetechiaError):
    """An answer of the PACS exceeds a limit."""


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Timed:
    """A connection whose answer must begin in time: timeouts of sockets do not stop one that arrives letter by letter."""

    sock: socket.socket

    def getresponse(self) -> Any:
        late = threading.Event()
        timer = threading.Timer(limit("pacs_seconds"), self._cut, [late])
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
        if late.is_set():  # what had arrived until then can look like an answer
            raise TimeoutError
        return answer

    def _cut(self, late: threading.Event) -> None:
        late.set()
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Plain(_Timed, HTTPConnection):
    pass


class _Encrypted(_Timed, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _Encrypted


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _EncryptedPool}


class PacsSession(requests.Session):
    """A session with one PACS, for `dicomweb_client` and for `PacsSession.get`.

    Every answer is read here, within the limits `pacs_answer` or, for images, `image_bytes`, and `pacs_seconds`. Redirections
    are refused, so credentials reach no other server. Proxies and .netrc are not used.
    """

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = address
        self.trust_env = False
        self.verify = address.authorities or True
        self.auth = _authentication(address)
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())
        self.headers["Accept-Encoding"] = "identity"  # what is packed can become larger than any limit

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, most: str = "pacs_answer", **options: Any
    ) -> requests.Response:
        """Ask, and read the whole answer.

        Args:
            method: of HTTP.
            url: below that of the PACS.
            args: as for `requests.Session.request`.
            most: name of the limit of the answer's bytes.
            options: as for `requests.Session.request`.

        Raises:
            PacsAwayError: the PACS cannot be reached or does not answer in time.
            GoneError: it does not have what was asked for.
            PetechiaError: it refuses, leads elsewhere, or its answer exceeds a limit.
        """
        if not url.startswith(f"{self.address.url}/"):
            raise PetechiaError(f"{self.address.url} would lead to another address; check the address of the PACS.")
        headers = dict(options.pop("headers", None) or {})
        headers.pop("Host", None)  # dicomweb_client leaves out the port
        if method.upper() == "POST":
            headers.setdefault("Accept", "application/dicom+json")
        options |= {"headers": headers, "allow_redirects": False, "stream": True, "timeout": (CONNECT, SILENCE)}
        until = time.monotonic() + limit("pacs_seconds")
        try:
            with super().request(method, url, *args, **options) as answer:
                self._refuse_state(answer)
                answer._content = self._read(answer, most, until)
                if method == "GET" and answer.status_code == 200 and not answer._content:
                    raise PacsAwayError(f"{self.address.url} broke off before its answer; try again later.")
        except requests.exceptions.SSLError as error:
            raise PetechiaError(
                f"The certificate of {self.address.url} is not trusted ({first_line(error)}); set PETECHIA_DICOMWEB_CA to the "
                f"file of the authority that signed it."
            ) from None
        except (requests.RequestException, HTTPError, OSError) as error:
            raise PacsAwayError(
                f"{self.address.url} does not answer ({_reason(error)}); check the address, and whether the PACS is running."
            ) from None
        return answer

    def get_redirect_target(self, resp: requests.Response) -> None:
        """No redirection is followed, nor its target parsed."""

    def _refuse_state(self, answer: requests.Response) -> None:
        state, url = answer.status_code, self.address.url
        if 300 <= state < 400:
            where = printable(_without_query(answer.headers.get("Location", "")), 200)
            raise PetechiaError(f"{url} leads to {where}, and is not followed there; give the address of the DICOMweb service.")
        if state == 401:
            how = "the credentials are wrong or have expired" if self.address.signs_in else "it wants credentials"
            raise PetechiaError(f"{url} lets nobody in (401: {how}); set {TOKEN}, or {USER} and its password.")
        if state == 403:
            raise ForbiddenError(f"{url} does not allow it (403); ask its administrator for the right to do it.")
        if state in (404, 410):
            raise GoneError(f"{url} has no such thing ({state}); check that it is the address of a DICOMweb service.")
        if state == 409:
            raise ConflictError(f"{url} does not take what was to be stored (409); look at the log of the PACS.")
        if state in AWAY:
            kind = BrokenError if state == 500 else PacsAwayError
            raise kind(f"{url} cannot answer now ({state}); try again later, or look at the log of the PACS.")
        if not 200 <= state < 300:
            raise RefusedError(f"{url} refuses the request ({state}); check the filters, and the log of the PACS.")

    def _read(self, answer: requests.Response, most: str, until: float) -> bytes:
        url = self.address.url
        if "xml" in answer.headers.get("Content-Type", "").lower():
            raise PetechiaError(f"{url} answers in XML, and JSON was asked for; check the address, or update the PACS.")
        packing = answer.headers.get("Content-Encoding", "identity").lower()
        if packing not in ("", "identity"):
            raise PetechiaError(f"{url} answers in {printable(packing)}, which was not asked for; turn its compression off.")
        parts, size = [], 0
        while part := answer.raw.read1(CHUNK):  # what has arrived: read() would wait for all of it
            size += len(part)
            if size > limit(most):
                raise LargeAnswerError(
                    f"{url} answers with more than {limit(most):,} bytes; narrow the filters, or raise {VARIABLE}={most}=BYTES."
                )
            if time.monotonic() > until:
                raise PacsAwayError(f"{url} takes more than {limit('pacs_seconds')} seconds for an answer; try again later.")
            parts.append(part)
        return b"".join(parts)


def _without_query(location: str) -> str:
    """Where a redirection leads, without what may be a secret."""
    try:
        parts = urlsplit(location)
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    except ValueError:
        return "an address that is none"


def _authentication(address: Address) -> AuthBase | None:
    if address.token:
        return _Bearer(address.token)
    return HTTPBasicAuth(*(text.encode() for text in address.user)) if address.user else None


def _reason(error: BaseException) -> str:
    """The kind of a problem; the text of the library names objects in memory."""
    names = {
        requests.exceptions.ConnectTimeout: "no connection in time",
        requests.exceptions.ReadTimeout: "silence",
        ReadTimeoutError: "silence",
        requests.exceptions.ConnectionError: "no connection",
        requests.exceptions.ChunkedEncodingError: "it broke off",
        ProtocolError: "it broke off",
    }
    return next((text for kind, text in names.items() if isinstance(error, kind)), type(error).__name__)
