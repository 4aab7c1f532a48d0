"""Start the viewer."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

LOGGER = logging.getLogger(__name__)
BACKLOG = 128
KEEP_ALIVE = 8  # seconds that a connection without a request stays open: longer than clients use one again
PATIENCE = 3  # seconds to finish open requests after Ctrl-C
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # options of glibc's mallopt
OWN_PAGES, ARENAS = 2 << 20, 2  # with its defaults, the viewer of 20 readers kept 2 GB that it had freed


def serve(
    name: str | Path,
    host: str,
    port: int,
    started: Callable[[str, bool], None],
    clean: str | None = None,
    compute: Compute | None = None,
    audit: Path | None = None,
    pacs: str | None = None,
) -> None:
    """Serve the viewer of a run or a model until Ctrl-C.

    Args:
        name: a run directory, or a model as `open_classifier` takes it.
        host: address to listen on. Other machines can reach the viewer unless it is a loopback address.
        port: 0 takes a free one.
        started: called once with the viewer's address, and with whether only this machine can reach it. The address holds the
            token without which nobody sees anything.
        clean: folder of images that nobody has tampered with, to screen others against; None takes the run's test images.
        compute: where the networks compute; None chooses device, precision and threads for this machine.
        audit: the audit.json with a recovered trigger that readers can stamp.
        pacs: "dicomweb:URL" of the PACS whose images readers can open.

    Raises:
        PetechiaError: the extra `web` is not installed, there is no such run or model, the model is a black box, there are too
            few clean images, the audit has no trigger for it, or the port is taken.
    """
    try:
        import uvicorn  # noqa: F401

        from petechia.viewer.access import Access
        from petechia.viewer.app import make_app
        from petechia.viewer.pacs_images import PacsImages
    except ImportError as error:
        raise PetechiaError(f"The viewer needs {error.name}; install it with pip install 'petechia[web]'.") from None
    from petechia.viewer.subject import Subject

    images = PacsImages(pacs) if pacs is not None else None
    _share_memory()
    subject = Subject(name, (compute or Compute()).start(), clean, audit)
    with _listening(host, port) as listener:
        access = Access()
        app = make_app(subject, {host, socket.gethostname()}, access, images)
        server = make_server(app)
        LOGGER.info("ready: %d models, %d images", sum(map(len, subject.networks.available.values())), len(subject.images))
        address = f"http://{_shown(host)}:{listener.getsockname()[1]}/?token={access.token}"
        started(address, _is_loopback(host))
        with suppress(KeyboardInterrupt):  # the way to end the viewer
            server.run(sockets=[listener])


def make_server(app: FastAPI) -> uvicorn.Server:
    """The web server. It leaves the configuration of logging to the application: its own would replace that of its loggers."""
    import uvicorn

    from petechia.viewer.connections import Connection
    from petechia.viewer.guard import MOST_HEADER

    options = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=MOST_HEADER,
        timeout_keep_alive=KEEP_ALIVE,
        backlog=BACKLOG,
        log_config=None,
        log_level="warning",
        access_log=False,  # request paths contain the secret names of uploads
        server_header=False,
        timeout_graceful_shutdown=PATIENCE,
    )
    return uvicorn.Server(options)


def _share_memory() -> None:
    """Let threads share what they free, and give large blocks back to the operating system at once."""
    with suppress(AttributeError, OSError):  # only glibc has these options
        allocator = ctypes.CDLL(None)
        allocator.mallopt(M_ARENA_MAX, ARENAS)
        allocator.mallopt(M_MMAP_THRESHOLD, OWN_PAGES)


def _shown(host: str) -> str:
    """The host as a browser reaches it; 0.0.0.0 and :: stand for every address of this machine."""
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
