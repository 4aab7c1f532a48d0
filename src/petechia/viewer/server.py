"""Start the viewer."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute

BACKLOG = 128
PATIENCE = 3  # seconds that Ctrl-C gives to requests that are being answered


def serve(
    name: str | Path,
    host: str,
    port: int,
    tell: Callable[[str, bool], None],
    clean: str | None = None,
    compute: Compute | None = None,
) -> None:
    """Serve the viewer of a run or a model until Ctrl-C.

    Args:
        name: a run directory, or a model as `open_classifier` takes it.
        host: address to bind to; other machines can reach all but loopback ones.
        port: 0 takes a free one.
        tell: told the address, and whether this machine alone can reach it.
        clean: images that nobody has tampered with, to screen others; None takes a run's test images.
        compute: where to compute.

    Raises:
        PetechiaError: the extra `web` is not installed, there is no such run or model, there are too few clean images, or the
            port is taken.
    """
    try:
        import uvicorn

        from petechia.viewer.app import make_app
    except ImportError as error:
        raise PetechiaError(f"The viewer needs {error.name}; install it with pip install 'petechia[web]'.") from None
    from petechia.viewer.subject import Subject

    subject = Subject(name, (compute or Compute()).start(), clean)
    with _listening(host, port) as listener:
        app = make_app(subject, {host, socket.gethostname()})
        options = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=PATIENCE
        )
        server = uvicorn.Server(options)
        tell(f"http://{_shown(host)}:{listener.getsockname()[1]}/", _is_loopback(host))
        with suppress(KeyboardInterrupt):  # it is how the viewer ends
            server.run(sockets=[listener])


def _shown(host: str) -> str:
    """How to reach the host from a browser; 0.0.0.0 and :: mean every address of this machine."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PetechiaError(
            f"The viewer cannot listen on {host}, port {port} ({reason}); choose another --port, or correct --host."
        ) from None
