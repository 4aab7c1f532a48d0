"""Hostile requests to the viewer: bytes that no browser sends, and questions that no page asks."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from petechia.data.formats.images import encode_png
from tests.torture.mutations import EXTREMES

SILENCE = 0.4  # seconds without an answer to what is no whole request
ANSWER = 20.0  # seconds in which a whole request must be answered
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})[^\r\n]*\r\n(?=[a-zA-Z-]+:)")
PATHS = ("/", "/read", "/api/session", "/api/test/0", "/api/images/test-0/levels", "/static/read.js", "/report.css")
STRANGE = (
    *("/%00", "/static/%00", "/static/a%00b", "/static/" + "a" * 3000, "/static/" + "a/" * 2000, "/static/..%2f..%2fapp.py"),
    *("//evil.example/read", "/\\evil", "/%ff%fe%zz%", "/read?" + "token=x&" * 500, "/?token=%ff%00", "/read?token=", "*"),
    *("http://evil.example/read", "http://127.0.0.1/read", "127.0.0.1:80", "/api/test/-1", "/api/test/" + "9" * 5000),
    *("/api/test/1e9", "/api/images/%2e%2e/levels", "/api/images/test-999999999/levels", "/api/images/test-%D9%A1/levels"),
    *("/static/read.js?" + "a" * 8000, "/static/", "/static", "/api", "/api/explain/", "/read/", "/%2e%2e/%2e%2e/etc/passwd"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "PRI", "A" * 300)
LINES = (
    *(b"Content-Length: 5", b"Content-Length: 7", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Content-Length: 1_0", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length: 0x10", b"Content-Length:"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked"),
    *(b"Transfer-Encoding : chunked", b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: identity", b"TE: trailers"),
    *(b"X: a\r\n b", b" X: folded", b"X", b": x", b"X: \0", b"X: \xff\xfe", b"X: " + b"a" * 40_000, b"X: a\rb", b"X: a\nY: b"),
    *(b"Host: evil.example", b"Host: 127.0.0.1", b"Host:", b"Origin: null", b"Origin: http://[", b"Sec-Fetch-Site: cross-site"),
    *(
        b"Range: bytes=0-0,1-1,2-2",
        b"Range: bytes=-0",
        b"Range: bytes=99999999999999999999-",
        b"Range: lines=1",
        b"If-Range: x",
    ),
    b"Range: bytes=" + b",".join(b"%d-%d" % (one, one) for one in range(0, 2000, 2)),
    *(b"If-Modified-Since: Foo, 99 Xxx 99999 99:99:99 GMT", b'If-None-Match: "', b"Expect: 100-continue", b"Expect: x"),
    *(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13", b"Upgrade: h2c"),
    *(b"Connection: close", b"Connection: keep-alive, x", b"Cookie: petechia=\xff.\xfe; ;=;", b"Cookie: " + b"a=b; " * 3000),
    *(b"Authorization: Bearer x", b"Authorization: Bearer", b"Authorization: Basic \xff", b"Accept-Encoding: gzip;q=nan"),
    *(b"Content-Type: multipart/form-data", b"Content-Encoding: gzip", b"X-Forwarded-For: ::1", b"X-Forwarded-Proto: https"),
)
WHOLE = (
    *(b"GET /\r\n\r\n", b"GET /\n\n", b"\r\n\r\n\r\n", b"\0" * 200, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20),
    *(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"A" * 100_000,
    ),
    *(b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n"),
    *(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 3000 + b"\r\n", b"SSH-2.0-x\r\n", b"", b"\xff\xd8\xff\xe0"),
)
CHUNKS = (
    *(
        b"5\r\nabcde\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFF\r\nabc",
        b"ffffffffffffffffffffffffffff\r\nabc",
        b"-1\r\nabc",
        b"zz\r\nabc",
    ),
    *(b"0\r\nTrailer: x\r\n\r\n", b"1;" + b"x" * 50_000 + b"\r\na\r\n0\r\n\r\n", b"1\r\nab\r\n0\r\n\r\n", b"1\r\na\r\n" * 2000),
    *(
        b"0x5\r\nabcde\r\n0\r\n\r\n",
        b" 5\r\nabcde\r\n0\r\n\r\n",
        b"5\nabcde\n0\n\n",
        b"0\r\n\r\nGET /read HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
)
VALUES: tuple[Any, ...] = (
    *(-1, 0, 1, 255, 256, 1e300, -0.0, 0.5, True, None, "", "x", "\0", "é" * 40, [], {}, [[[]]], {"a": {}}, *EXTREMES),
    *(10**20, -(10**20), 10**400, "9" * 70, "test-0", "test-99999", "gradcam", "../..", "\u202e", [0] * 100, {"": 0}),
)
JSONS = (
    *(
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"\xff\xfe",
        b"{'a': 1}",
        b'{"image":NaN}',
        b'{"seed":1e999}',
    ),
    *(b'{"image":"\\ud800"}', b'{"\\u0000":1}', b'{"' + b"k" * 50_000 + b'":1}', b'{"seed":' + b"9" * 60_000 + b"}"),
    *(
        b'{"image":"a","image":"b"}',
        b"\xef\xbb\xbf{}",
        b'{"stamps":[' + b"{}," * 20_000 + b"{}]}",
        b" " * 65_536,
        b" " * 70_000,
    ),
)
IMAGE = encode_png(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8))


@dataclass
class Tried:
    """What became of requests.

    Attributes:
        statuses: number of answers by status.
        silent: requests without an answer; only those that are not whole may have none.
        failures: what must not happen, in words.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    failures: list[str] = field(default_factory=list)


class Hostile:
    """Makes requests. The same seed makes the same ones."""

    def __init__(self, seed: int, host: bytes, token: str) -> None:
        self._chance, self._host, self._token = Random(seed), host, token.encode()  # noqa: S311

    def request(self) -> bytes:
        """One or several requests, as bytes."""
        kinds = (
            self._path,
            self._framing,
            self._question,
            self._question,
            self._upload,
            self._whole,
            self._mutated,
            self._many,
        )
        return self._chance.choice(kinds)()

    def _head(self, method: str, path: str, *lines: bytes) -> bytes:
        known = [b"Authorization: Bearer " + self._token] * (self._chance.random() < 0.85)
        first = f"{method} {path} HTTP/1.1".encode("latin-1")
        return b"\r\n".join([first, b"Host: " + self._host, *known, *lines, b"", b""])

    def _lines(self, most: int) -> list[bytes]:
        return self._chance.sample(LINES, self._chance.randint(0, most))

    def _path(self) -> bytes:
        path = self._chance.choice(PATHS + STRANGE)
        return self._head(self._chance.choice(METHODS), path, *self._lines(2))

    def _framing(self) -> bytes:
        lines = self._lines(3)
        if self._chance.random() < 0.7:
            lines.append(b"Transfer-Encoding: chunked")
        head = self._head("POST", self._chance.choice(("/api/explain", "/api/images", "/api/screen", "/read")), *lines)
        return head + self._chance.choice(CHUNKS)

    def _posted(self, path: str, content: bytes) -> bytes:
        return self._head("POST", path, b"Content-Length: %d" % len(content), *self._lines(1)) + content

    def _question(self) -> bytes:
        path = self._chance.choice(("/api/explain", "/api/explain", "/api/explain", "/api/screen"))
        if self._chance.random() < 0.2:
            return self._posted(path, self._chance.choice(JSONS))
        stamp = {"row": 3, "column": 4, "size": 3, "value": 0}
        asked: dict[str, Any] = {"image": f"test-{self._chance.randrange(4)}", "arm": "attacked", "seed": 0, "epoch": 2}
        if path == "/api/explain":
            asked |= {"target": self._chance.randrange(14), "method": "gradcam"}
        asked["stamps"] = [dict(stamp) for _ in range(self._chance.choice((0, 1, 2, 64, 65)))]
        for place in self._chance.sample([asked, *asked["stamps"]], 1):
            place[self._chance.choice([*place, "attacked", "more"])] = self._chance.choice(VALUES)
        return self._posted(path, json.dumps(asked).encode())

    def _upload(self) -> bytes:
        content = bytearray(IMAGE)
        for _ in range(self._chance.randint(0, 4)):
            content[self._chance.randrange(len(content))] = self._chance.randrange(256)
        return self._posted("/api/images", bytes(content[: self._chance.choice((None, 8, 40, 500))]))

    def _whole(self) -> bytes:
        return self._chance.choice(WHOLE)

    def _mutated(self) -> bytes:
        content = bytearray(self._chance.choice((self._path, self._question, self._upload))())
        for _ in range(self._chance.randint(1, 6)):
            at = self._chance.randrange(len(content))
            content[at : at + self._chance.randint(0, 3)] = self._chance.randbytes(self._chance.randint(0, 3))
        return bytes(content)

    def _many(self) -> bytes:
        kinds = (self._path, self._question, self._framing)
        return b"".join(self._chance.choice(kinds)() for _ in range(self._chance.randint(2, 5)))


async def attack(address: str, token: str, count: int, seed: int, at_once: int = 16) -> Tried:
    """Send hostile requests, several at once, and listen to the answers.

    Args:
        address: of the viewer, without a path.
        token: that lets readers in.
        count: number of requests.
        seed: of the requests.
        at_once: connections at once.
    """
    host, port = address.removeprefix("http://").split(":")
    hostile, tried = Hostile(seed, f"{host}:{port}".encode(), token), Tried()
    requests = iter([hostile.request() for _ in range(count)])

    async def worker(number: int) -> None:
        chance = Random(f"{seed} {number}")  # noqa: S311
        for sent in requests:
            heard = await _heard(host, int(port), sent, chance)
            if heard is None:
                tried.silent += 1
                if _is_whole(sent):
                    tried.failures.append(f"no answer within {ANSWER:.0f} s: {sent[:300]!r}")
                continue
            statuses = [int(status) for status in STATUS.findall(heard)]
            tried.statuses.update(statuses)
            if any(status >= 500 for status in statuses):
                tried.failures.append(f"{statuses}: {sent[:600]!r}: {heard[-200:]!r}")

    await asyncio.gather(*(worker(number) for number in range(at_once)))
    return tried


async def _heard(host: str, port: int, sent: bytes, chance: Random) -> bytes | None:
    """What the viewer answers until it is silent; None if it is silent from the start. Some readers go away before."""
    heard, patience = b"", ANSWER if _is_whole(sent) else SILENCE
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return f"HTTP/1.1 599 {type(error).__name__}\r\nX: y".encode()
    try:
        half = len(sent) // 2 if chance.random() < 0.2 else 0
        writer.write(sent[:half])
        await asyncio.sleep(0.01 if half else 0)
        writer.write(sent[half:])
        if chance.random() < 0.1:
            return heard
        while part := await asyncio.wait_for(reader.read(1 << 16), patience):
            heard, patience = heard + part, SILENCE
    except TimeoutError:
        return heard or None
    except OSError:  # it hung up
        pass
    finally:
        writer.transport.abort()
    return heard


def _is_whole(sent: bytes) -> bool:
    """Whether a request looks complete, so that an answer must come."""
    head, found, body = sent.partition(b"\r\n\r\n")
    length = re.findall(rb"(?i)[\r\n]content-length:[ \t]*([0-9]{1,9})", head)
    return bool(found) and b"ransfer-" not in head and (not length or max(map(int, length)) <= len(body))
