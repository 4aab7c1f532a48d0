"""The address of a PACS, and how one signs in there: credentials come from the environment alone."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from petechia.core.errors import PetechiaError, printable

TOKEN, USER, PASSWORD = "PETECHIA_DICOMWEB_TOKEN", "PETECHIA_DICOMWEB_USER", "PETECHIA_DICOMWEB_PASSWORD"
AUTHORITIES = ("PETECHIA_DICOMWEB_CA", "REQUESTS_CA_BUNDLE")
FORM = "give https://HOST/PATH, as in dicomweb:https://pacs.example/dicom-web"


class Address(NamedTuple):
    """A PACS and how to sign in there.

    Attributes:
        url: of its DICOMweb service, without a slash at the end; it holds no credentials.
        token: for "Authorization: Bearer"; None if there is none.
        user: name and password; None if there are none.
        authorities: file or folder of certificates that a server's is checked with; None takes those of the system.
    """

    url: str
    token: str | None = None
    user: tuple[str, str] | None = None
    authorities: str | None = None

    @property
    def signs_in(self) -> bool:
        """Whether there are credentials."""
        return self.token is not None or self.user is not None

    def __repr__(self) -> str:
        return f"Address({self.url!r})"  # no secrets


def read_address(url: str) -> Address:
    """Check the URL of a PACS, and read the credentials for it from the environment.

    Raises:
        PetechiaError: it is not such a URL, it holds credentials, or they would be sent in clear text to another machine.
    """
    refuse_credentials(url)
    parts = _split(url)
    address = Address(url.rstrip("/"), *_credentials(), _authorities())
    if address.signs_in and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise PetechiaError(
            f"{printable(url, 200)} is not encrypted, and the credentials would be read by whoever listens; give an https: "
            f"address, or reach the PACS through a tunnel to this machine."
        )
    return address


def refuse_credentials(url: str) -> None:
    """Refuse the URL of a PACS that holds a user, a password or a query, which can be a token, in a sentence that does not.

    Args:
        url: the URL; options may follow it after a comma. It need not be a valid one.

    Raises:
        PetechiaError: it does.
    """
    place = url.partition(",")[0]
    if "@" in place or re.match(r"[^/]*/*[^/]*@", url):  # a password can hold a comma, too
        raise PetechiaError(
            f"The address of the PACS holds a user or a password, which would end up in logs and results; leave it out, and "
            f"set {USER} and {PASSWORD}, or {TOKEN}, in the environment. An @ of a path is written %40."
        )
    if re.search(r"[?#;]", place):
        raise PetechiaError(f"The address of the PACS holds a question mark, a hash or a semicolon; {FORM}.")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or not url.isprintable() or any(letter.isspace() for letter in url):
        raise PetechiaError(f"{printable(url, 200)!r} is not the address of a PACS; {FORM}.")
    return parts


def _credentials() -> tuple[str | None, tuple[str, str] | None]:
    token, user, password = (os.environ.get(name) or None for name in (TOKEN, USER, PASSWORD))
    if token and (user or password):
        raise PetechiaError(f"Both {TOKEN} and {USER} or {PASSWORD} are set; set one of the two ways to sign in.")
    if (user is None) != (password is None):
        missing = PASSWORD if password is None else USER
        raise PetechiaError(f"{missing} is not set in the environment; set it, or neither {USER} nor {PASSWORD}.")
    for name, secret in ((TOKEN, token), (USER, user), (PASSWORD, password)):
        if secret and not secret.isprintable():
            raise PetechiaError(f"{name} holds a line break or another character that cannot be sent; set it again.")
    if token and not token.isascii():
        raise PetechiaError(f"{TOKEN} holds a letter that no token has; set it again.")
    return token, (user, password) if user is not None and password is not None else None


def _authorities() -> str | None:
    for name in AUTHORITIES:
        if chosen := os.environ.get(name):
            if not Path(chosen).exists():
                raise PetechiaError(f"{name} names {printable(chosen, 200)}, which does not exist; correct it.")
            return chosen
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
