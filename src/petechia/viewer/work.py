"""Readers' work: waits in bounded queues, is done in turn, and is dropped when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

from petechia.core.errors import PetechiaError

T = TypeVar("T")

IDLE = 60.0  # seconds without work after which a thread ends
ENDING = 10.0  # seconds that the end of the server waits for what is being computed
LONGEST_ADVICE = 60  # seconds; no reader is told to wait longer before trying again
PATIENCE = 1.5  # seconds that less urgent work waits for its next piece while more urgent work keeps coming


class BusyError(PetechiaError):
    """Too much waits already.

    Attributes:
        seconds: after which trying again makes sense.
    """

    def __init__(self, sentence: str, seconds: int) -> None:
        super().__init__(sentence)
        self.seconds = seconds


class Abandoned(Exception):  # noqa: N818 (no error: the reader went away)
    """Nobody waits for the result any more."""


class Job(Generic[T]):
    """Something to do for a reader, in another thread.

    Attributes:
        reader: who asked.
        future: gets the result.
        abandoned: whether nobody waits for it any more.
    """

    def __init__(self, reader: str, work: Callable[[Job[T]], T]) -> None:
        self.reader, self._work = reader, work
        self.future: Future[T] = Future()
        self.abandoned = False

    def check(self) -> None:
        """Called between steps.

        Raises:
            Abandoned: nobody waits for the result any more.
        """
        if self.abandoned:
            raise Abandoned

    def run(self) -> None:
        """Do it."""
        if self.abandoned or not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._work(self)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Desk:
    """A bounded queue with its threads. Readers are served in turn, however many questions each of them has asked."""

    def __init__(self, what: str, threads: int = 1, most: int = 128, most_each: int = 32) -> None:
        """Open a desk.

        Args:
            what: its work, for messages, such as "images".
            threads: number of jobs that are done at once.
            most: jobs that may wait.
            most_each: jobs of one reader that may wait.
        """
        self._what, self._threads, self._most, self._most_each = what, threads, most, most_each
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Job[Any]]] = OrderedDict()  # reader → jobs; the first reader is the next
        self._running: set[Job[Any]] = set()
        self._alive = self._idle = 0
        self._closed = False
        self._usual = 0.5  # seconds that a job takes

    async def do(self, reader: str, work: Callable[[Job[T]], T]) -> T:
        """Do some work in another thread. If the caller is cancelled, it is dropped, or told so at its next `check`.

        Raises:
            BusyError: too much waits already.
        """
        job = Job(reader, work)
        self._accept(job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.abandoned = True  # changes nothing where it is done
            self._drop(job)

    def close(self) -> None:
        """Drop everything: the server ends."""
        with self._changed:
            self._closed = True
            for job in self._running:
                job.abandoned = True
            for jobs in self._waiting.values():
                for job in jobs:
                    job.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for what runs after `close`: a thread that is inside torch when Python ends aborts the process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alive, ENDING)

    def _accept(self, job: Job[Any]) -> None:
        with self._changed:
            own = self._waiting.get(job.reader, ())
            if len(own) >= self._most_each:
                raise self._busy("You have asked for too much at the same time")
            if sum(map(len, self._waiting.values())) >= self._most:
                self._make_room(len(own))
            self._waiting.setdefault(job.reader, deque()).append(job)
            if sum(map(len, self._waiting.values())) > self._idle and self._alive < self._threads:
                self._alive += 1
                threading.Thread(target=self._serve, name=f"viewer: {self._what}", daemon=True).start()
            self._changed.notify()

    def _make_room(self, own: int) -> None:
        """Drop the newest job of the reader who has most of them, unless that would be as unfair the other way round."""
        greedy = max(self._waiting, key=lambda reader: len(self._waiting[reader]))
        if len(self._waiting[greedy]) <= own + 1:
            raise self._busy("Too many readers are waiting")
        with suppress(InvalidStateError):  # its reader left just now
            self._waiting[greedy].pop().future.set_exception(self._busy("Too many readers are waiting"))

    def _busy(self, sentence: str) -> BusyError:
        waiting = 1 + sum(map(len, self._waiting.values()))
        seconds = min(max(1, math.ceil(self._usual * waiting / self._threads)), LONGEST_ADVICE)
        return BusyError(f"{sentence} ({self._what}); try again in {seconds} s.", seconds)

    def _drop(self, job: Job[Any]) -> None:
        with self._changed:
            jobs = self._waiting.get(job.reader)
            if jobs is not None:
                with suppress(ValueError):
                    jobs.remove(job)
                if not jobs:
                    del self._waiting[job.reader]

    def _serve(self) -> None:
        """What a thread does: job after job, until there has been none for some time."""
        while (job := self._next()) is not None:
            began = time.monotonic()
            job.run()
            with self._changed:
                self._running.discard(job)
                self._usual += (time.monotonic() - began - self._usual) / 8

    def _next(self) -> Job[Any] | None:
        with self._changed:
            self._idle += 1
            found = self._changed.wait_for(lambda: self._waiting or self._closed, IDLE)
            self._idle -= 1
            if not found or not self._waiting:
                self._alive -= 1
                self._changed.notify_all()
                return None
            reader, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[reader] = jobs  # at the end
            self._running.add(job)
            return job


class Turns:
    """Who may use the networks: one at a time, the most urgent first.

    Less urgent work that has waited for `PATIENCE` gets a piece in between, so that it is slow but does not stop for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._tickets: list[tuple[int, float, object]] = []  # urgency, since when, and whose

    def take(self, urgency: int, needed: Callable[[], bool] = lambda: True) -> bool:
        """Wait for the turn.

        Args:
            urgency: 0 is the most urgent.
            needed: whether the turn is still needed; asked whenever somebody has given it.

        Returns:
            Whether the turn was taken; False if it is not needed any more.
        """
        ticket = (urgency, time.monotonic(), object())
        with self._changed:
            self._tickets.append(ticket)
            self._changed.wait_for(lambda: not needed() or (not self._taken and self._first() is ticket))
            self._tickets.remove(ticket)
            if not needed():
                self._changed.notify_all()  # another one may be the first now
                return False
            self._taken = True
            return True

    def give(self) -> None:
        """Give the turn to the next."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def _first(self) -> tuple[int, float, object]:
        late = [ticket for ticket in self._tickets if ticket[0] and time.monotonic() - ticket[1] > PATIENCE]
        return min(late or self._tickets, key=lambda ticket: ticket[1] if late else ticket[:2])
