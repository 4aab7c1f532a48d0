"""A PACS that answers whatever a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `answer` says."""

    server: Server
    body = b""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        self.server.answer(self)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # who asked has gone
            super().handle()

    @property
    def asks(self) -> tuple[str, dict[str, list[str]]]:
        """Path and query."""
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query)

    def reply(self, content: bytes, kind: str = "application/dicom+json", state: int = 200, **headers: str) -> None:
        """Send an answer."""
        self.send_response(state)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | given).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def reply_json(self, value: Any) -> None:
        """Send DICOM JSON."""
        self.reply(json.dumps(value).encode())

    def reply_file(self, content: bytes) -> None:
        """Send a DICOM file as WADO-RS does."""
        body = b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b0--\r\n"
        self.reply(body, 'multipart/related; type="application/dicom"; boundary="b0"')


class Server(ThreadingHTTPServer):
    """The server.

    Attributes:
        answer: what it does with a request.
        asked: path and headers of every request.
    """

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        """Its DICOMweb address."""
        return f"http://127.0.0.1:{self.server_address[1]}/dw"


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """Run such a PACS."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def entry(**values: Any) -> dict[str, Any]:
    """An answer in DICOM JSON."""
    tags = {
        **{"study": "0020000D", "series": "0020000E", "uid": "00080018", "kind": "00080016", "modality": "00080060"},
        **{"patient": "00100020", "date": "00080020", "description": "00081030", "frames": "00280008"},
    }
    return {tags[key]: {"vr": "UI", "Value": [value]} for key, value in values.items()}


def answering(studies: list[Any], instances: list[Any], file: Callable[[str], bytes] | None = None) -> Answer:
    """A PACS with these lists, of which it gives the pages asked for."""

    def answer(handler: Handler) -> None:
        path, query = handler.asks
        if "/series/" in path and not path.endswith("/instances") and file is not None:
            handler.reply_file(file(path.rpartition("/")[2]))
            return
        offset = int(query.get("offset", ["0"])[0])
        found = instances if path.endswith("/instances") else studies
        handler.reply_json(found[offset : offset + int(query["limit"][0])])

    return answer
