"""Limits of the connections to the web server: their number, and the time that the other side may take."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
PATIENCE = 10.0  # seconds for the header of a request, for the rest of a body that nobody reads, and for closing
STALLED = 30.0  # seconds in which a reader must take some of what is sent: 48 KiB, see asyncio's limits of write buffers
MOST_SENDING = 600.0  # seconds for all of an answer
TICK = 1.0  # seconds between looks at a connection
QUIET = logging.getLogger("petechia.viewer.connections")
QUIET.setLevel(logging.ERROR)  # anyone can send nonsense, and fill the terminal with warnings about it


class Connection(H11Protocol):
    """One connection. uvicorn limits the time between two requests only, so this looks at the rest every second.

    It is cut off if it is not used for a request and does not end: while its header arrives, while what was sent after the
    answer is thrown away, and while it closes. It is also cut off if the other side does not take its answer. Bodies that are
    read have limits of their own, in `uploads.read_body`.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.logger = QUIET
        self._good = self.loop.time()  # when all was well last
        self._sending: tuple[object, float] = (None, 0.0)  # an answer that is being sent, and since when

    @property
    def working(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection in place of the oldest that does nothing, if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            others = [one for one in self.connections if isinstance(one, Connection) and one is not self and not one.working]
            dropped = min(others, key=lambda one: one._good, default=self)
            dropped.transport.abort()
            self.connections.discard(dropped)
        self._watch()

    def _watch(self) -> None:
        # A lost connection is not in the set.
        if self not in self.connections:
            return
        now, paused = self.loop.time(), self.flow.write_paused
        if self.working and not paused and not self.transport.is_closing():
            self._good = now
        if self.working and self.cycle.response_started and self._sending[0] is not self.cycle:
            self._sending = self.cycle, now
        slow = self.working and self._sending[0] is self.cycle and now - self._sending[1] > MOST_SENDING
        if slow or now - self._good > (STALLED if paused else PATIENCE):
            self.transport.abort()
            return
        self.loop.call_later(TICK, self._watch)

    def on_response_complete(self) -> None:
        """Note that a request was answered: short ones may all lie between two looks."""
        self._good = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Note that the other side has taken something."""
        self._good = self.loop.time()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer nonsense, or cut the connection where an answer is already on its way."""
        if self.working:  # on a request whose body turned out to be nonsense; its own answer comes too late
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as any other."""
