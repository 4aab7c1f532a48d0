"""Connections that take long, or do nothing, are cut off; those that ask strangely get an answer."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from petechia.data.formats.images import encode_png
from petechia.viewer import app, connections, uploads
from petechia.viewer.subject import Subject
from tests.viewer.conftest import Served, serving

SOON = 6.0  # seconds within which a connection is cut off here; the machine may be busy


@pytest.fixture
def hurried(hostile: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A viewer with little patience."""
    for module, name, value in (
        *((connections, "PATIENCE", 0.5), (connections, "STALLED", 0.6), (connections, "TICK", 0.1)),
        *((uploads, "MOST_SECONDS", 0.5), (app, "MOST_ASKING", 0.5), (connections, "MOST_CONNECTIONS", 6)),
    ):
        monkeypatch.setattr(module, name, value)
    with serving(hostile) as address:
        yield address


def connected(address: Served) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=SOON)
    connection.settimeout(SOON)
    return connection


def head(address: Served, first: str, *lines: str) -> bytes:
    known = f"Authorization: Bearer {address.token}"
    return "\r\n".join([f"{first} HTTP/1.1", f"Host: {address.removeprefix('http://')}", known, *lines, "", ""]).encode()


def heard(connection: socket.socket) -> bytes:
    """All that the viewer says until it hangs up."""
    said = bytearray()
    while part := connection.recv(1 << 16):
        said += part
    return bytes(said)


def asked(address: Served, content: bytes) -> bytes:
    with connected(address) as connection:
        connection.sendall(content)
        return heard(connection)


@pytest.mark.parametrize("sent", [b"", b"GET /read HT", b"GET /read HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_header_that_does_not_end_is_cut_off_however_it_drips(hurried: Served, sent: bytes) -> None:
    began = time.perf_counter()
    with connected(hurried) as connection:
        connection.sendall(sent)
        try:
            while time.perf_counter() - began < SOON:
                connection.sendall(b"x" if sent else b"")
                time.sleep(0.05)
                connection.setblocking(False)
                try:
                    assert connection.recv(1) == b""
                    break
                except BlockingIOError:
                    connection.settimeout(SOON)
        except OSError:
            pass
    assert 0.4 < time.perf_counter() - began < SOON


@pytest.mark.parametrize("path", ["/api/images", "/api/explain"])
def test_a_body_that_does_not_end_is_answered_and_cut_off(hurried: Served, path: str) -> None:
    began = time.perf_counter()
    said = asked(hurried, head(hurried, f"POST {path}", "Content-Length: 1000") + b"x")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"took longer than" in said
    assert time.perf_counter() - began < SOON


def test_a_connection_of_short_requests_is_not_cut_off(hurried: Served) -> None:
    with connected(hurried) as connection:
        for _ in range(20):  # longer than the viewer's patience
            connection.sendall(head(hurried, "GET /static/read.js"))
            said = connection.recv(1 << 16)
            length = int(said.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(said.partition(b"\r\n\r\n")[2]) < length:
                more = connection.recv(1 << 16)
                assert more
                said += more
            assert said.startswith(b"HTTP/1.1 200 ")
            time.sleep(0.1)


def test_an_upload_that_drips_gives_its_place_back_soon(hurried: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_SECONDS", 60.0)
    monkeypatch.setattr(uploads, "STALLED", 0.3)
    began = time.perf_counter()
    with connected(hurried) as connection:
        connection.sendall(head(hurried, "POST /api/images", "Content-Length: 1000000"))
        connection.settimeout(0.1)
        said = b""
        while not said and time.perf_counter() - began < SOON:
            connection.sendall(b"x")
            with suppress(TimeoutError):
                said = connection.recv(1 << 16)
    assert said.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_nobody_reads_is_cut_off(hurried: Served) -> None:
    began = time.perf_counter()
    said = asked(hurried, head(hurried, "GET /read", "Content-Length: 1000000") + b"x")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert time.perf_counter() - began < SOON


LEVELS = 2 * 3000**2  # bytes; more than the system keeps between two programs


def asked_for_levels(address: Served) -> socket.socket:
    """A connection on which the levels of a large image were asked for, with a small buffer."""
    large = encode_png(np.zeros((3000, 3000), np.uint8))
    posted = asked(address, head(address, "POST /api/images", f"Content-Length: {len(large)}", "Connection: close") + large)
    image = posted.rpartition(b'"image":"')[2].partition(b'"')[0].decode()
    connection = connected(address)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    connection.sendall(head(address, f"GET /api/images/{image}/levels", "Connection: close"))
    return connection


def test_a_reader_who_does_not_take_the_answer_is_cut_off(hurried: Served) -> None:
    with asked_for_levels(hurried) as connection:
        time.sleep(2.5)
        taken = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                taken += len(part)
    assert taken < LEVELS


def test_a_slow_but_steady_reader_gets_all(hurried: Served) -> None:
    with asked_for_levels(hurried) as connection:
        taken, began = 0, time.perf_counter()
        while part := connection.recv(1 << 17):
            taken += len(part)
            time.sleep(max(0, began + 2.5 * taken / LEVELS - time.perf_counter()))
    assert taken > LEVELS


def test_idle_connections_make_room_for_new_ones(hurried: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 60)
    idle = [connected(hurried) for _ in range(12)]
    assert asked(hurried, head(hurried, "GET /read", "Connection: close")).startswith(b"HTTP/1.1 200 ")
    assert idle[0].recv(1) == b""
    for connection in idle:
        connection.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (["POST /api/explain", "Content-Length: 2", "Transfer-Encoding: chunked"], 400),
        (["POST /api/explain", "Content-Length: 2", "Content-Length: 3"], 400),
        (["POST /api/explain", "Content-Length: -1"], 400),
        (["POST /api/explain", "Content-Length: 99999999999999999999"], 413),
        (["GET /read", "X: " + "a" * 40_000], 431),
        (["GET /static/%00"], 404),
        (["GET /static/" + "a/" * 2000], 404),
        (["GET http://evil.example/read"], 404),
        (["CONNECT 127.0.0.1:80"], 404),
        (["TRACE /read"], 405),
        (["GET /read", "Upgrade: websocket", "Connection: Upgrade"], 200),
        (["GET /static/read.js", "Range: bytes=99999999999999999999-"], 416),
        (["GET /static/read.js", "Range: bytes=" + ",".join(f"{one}-{one}" for one in range(0, 3000, 2))], 200),
        (["GET /api/test/" + "9" * 5000], 422),
    ],
)
def test_strange_requests_are_answered(hurried: Served, sent: list[str], status: int) -> None:
    said = asked(hurried, head(hurried, *sent) + b"0\r\n\r\n")
    assert said.startswith(f"HTTP/1.1 {status} ".encode()), said[:300]


def test_nothing_is_smuggled_behind_an_ambiguous_request(hurried: Served) -> None:
    first = head(hurried, "POST /api/explain", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
    said = asked(hurried, first + head(hurried, "GET /read"))
    assert said.count(b"HTTP/1.1 ") == 1


def test_pipelined_requests_are_answered_in_their_order(hurried: Served) -> None:
    said = asked(hurried, head(hurried, "GET /nothing") + head(hurried, "GET /read", "Connection: close"))
    assert [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]] == [b"404", b"200"]
