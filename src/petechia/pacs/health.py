"""What a watch tells those who watch over it: metrics for Prometheus and its health, on loopback."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from petechia.core.errors import PetechiaError

HOST = "127.0.0.1"
SLOW = 5  # seconds after which a connection without a request is closed


class Health:
    """Counts what a watch does. No text of the PACS enters it.

    Args:
        patience: seconds without progress after which the watch is not healthy.
    """

    def __init__(self, patience: float) -> None:
        self.registry = CollectorRegistry()
        self._patience = patience
        self._progress = time.monotonic()
        self._asked = False
        self.screened = self._counter("images_screened", "Images that were screened")
        self.flagged = self._counter("images_flagged", "Images that were flagged")
        self.failed = self._counter("images_failed", "Images that cannot be screened")
        self.stored = self._counter("objects_stored", "Reports and pictures that were stored in the PACS")
        self.rounds = self._counter("rounds", "Lists of the PACS that were worked through")
        self.away = self._counter("pacs_away", "Times that the PACS did not answer")
        self.up = self._gauge("pacs_up", "1 while the PACS answers")
        self.round_seconds = self._gauge("round_seconds", "Duration of the last round")

    def progress(self, up: bool = True) -> None:
        """Note that the PACS has answered, or that it has not."""
        self._asked = True
        self.up.set(int(up))
        if up:
            self._progress = time.monotonic()
        else:
            self.away.inc()

    def state(self) -> tuple[bool, dict[str, Any]]:
        """Whether the watch is healthy, and what to say."""
        silence = time.monotonic() - self._progress
        up = bool(self.registry.get_sample_value("petechia_pacs_up"))
        fine = up and silence < self._patience
        said = "ok" if fine else "no progress" if up else "the PACS is away" if self._asked else "starting"
        return fine, {"status": said, "seconds_since_progress": round(silence, 1)}

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(f"petechia_{name}", meaning, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"petechia_{name}", meaning, registry=self.registry)


class HealthServer:
    """Serves /metrics and /health to this machine.

    Args:
        health: what is served.
        port: 0 takes a free one.

    Raises:
        PetechiaError: the port is taken.
    """

    def __init__(self, health: Health, port: int) -> None:
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(health))
        except (OSError, OverflowError) as error:
            raise PetechiaError(f"Port {port} cannot be listened on ({error}); choose another --port.") from None
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SLOW

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._reply(200, CONTENT_TYPE_LATEST, generate_latest(health.registry))
            elif self.path == "/health":
                fine, said = health.state()
                self._reply(200 if fine else 503, "application/json", json.dumps(said).encode())
            else:
                self._reply(404, "text/plain", b"There is /metrics and /health.\n")

        def _reply(self, state: int, kind: str, content: bytes) -> None:
            self.send_response(state)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 (the name that the library uses)
            pass

    return Handler
