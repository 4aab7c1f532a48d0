"""Start the viewer."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from petechia.compute import Compute
from petechia.errors import PetechiaError

BACKLOG = 128


def serve(path: Path, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve the viewer of a run or a model until Ctrl-C.

    Args:
        path: run directory, or model file.
        host: address to bind to; other machines can reach all but loopback ones.
        port: 0 takes a free one.
        tell: told the address.

    Raises:
        PetechiaError: the extra `web` is not installed, there is no such run or model, or the port is taken.
    """
    try:
        import uvicorn

        from petechia.serve.app import make_app
    except ImportError as error:
        raise PetechiaError(f"The viewer needs {error.name}; install it with pip install 'petechia[web]'.") from None
    from petechia.serve.subject import Subject

    subject = Subject(path, Compute().open())
    with _listening(host, port) as listener:
        app = make_app(subject, {host, socket.gethostname()})
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listener.getsockname()[1]}/")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
        server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PetechiaError(f"The viewer cannot listen on {host}, port {port} ({reason}); choose another --port.") from None
    return listener
