import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from petechia.viewer import work
from petechia.viewer.work import Abandoned, BusyError, Desk, Job, Turns
from tests.viewer.conftest import run_apart


def until(true: Callable[[], object]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true")


async def blocked(desk: Desk) -> tuple[threading.Event, asyncio.Task[Any]]:
    """Occupy the desk's thread until the event is set."""
    go, began = threading.Event(), threading.Event()

    def wait(_job: Job[None]) -> None:
        began.set()
        go.wait(10)

    task = asyncio.create_task(desk.do("first", wait))
    await asyncio.to_thread(began.wait, 10)
    return go, task


async def asked(desk: Desk, reader: str, do: Callable[[Job[Any]], Any]) -> asyncio.Task[Any]:
    task = asyncio.create_task(desk.do(reader, do))
    await asyncio.sleep(0)
    return task


def test_readers_are_served_in_turn_however_much_each_asks() -> None:
    served: list[str] = []

    async def story() -> None:
        desk = Desk("tests")
        go, first = await blocked(desk)
        names = ["greedy"] * 6 + ["modest", "late"]
        tasks = [await asked(desk, name, lambda job: served.append(job.reader)) for name in names]
        go.set()
        await asyncio.gather(first, *tasks)

    run_apart(story())
    assert served[:3] == ["greedy", "modest", "late"]
    assert served[3:] == ["greedy"] * 5


def test_results_and_errors_reach_who_asked() -> None:
    async def story() -> None:
        desk = Desk("tests", threads=2)
        assert await desk.do("a", lambda _job: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await desk.do("a", lambda _job: 1 // 0)
        assert await desk.do("a", lambda _job: 8) == 8

    run_apart(story())


def test_a_full_desk_says_when_to_come_back_and_the_greedy_make_room_for_others() -> None:
    async def story() -> None:
        desk = Desk("tests", most=4, most_each=3)
        go, first = await blocked(desk)
        greedy = [await asked(desk, "greedy", lambda _job: "done") for _ in range(3)]
        with pytest.raises(BusyError, match="You have asked for too much at the same time") as refused:
            await desk.do("greedy", lambda _job: None)
        assert 1 <= refused.value.seconds <= work.LONGEST_ADVICE
        others = [await asked(desk, name, lambda _job: "done") for name in ("a", "b")]
        with pytest.raises(BusyError, match="Too many readers are waiting"):
            await greedy[-1]
        others.append(await asked(desk, "c", lambda _job: "done"))
        with pytest.raises(BusyError, match="Too many readers are waiting"):
            await greedy[-2]
        with pytest.raises(BusyError, match="Too many readers are waiting"):
            await desk.do("d", lambda _job: None)  # nobody has more than one job now
        go.set()
        assert await asyncio.gather(first, greedy[0], *others) == [None, "done", "done", "done", "done"]

    run_apart(story())


def test_abandoned_work_is_dropped_and_running_work_ends_at_its_next_step() -> None:
    ran: list[str] = []

    async def story() -> None:
        desk = Desk("tests")
        go, first = await blocked(desk)
        waiting = await asked(desk, "a", lambda _job: ran.append("waiting"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go.set()
        await first
        steps = threading.Event()

        def long(job: Job[None]) -> None:
            try:
                while True:
                    job.check()
                    steps.set()
                    time.sleep(0.01)
            except Abandoned:
                ran.append("ended")
                raise

        running = asyncio.create_task(desk.do("a", long))
        await asyncio.to_thread(steps.wait, 10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await desk.do("b", lambda _job: "next") == "next"

    run_apart(story())
    assert ran == ["ended"]


def test_idle_threads_end_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "IDLE", 0.05)
    desk = Desk("idling")

    def alive() -> bool:
        return any(thread.name == "viewer: idling" for thread in threading.enumerate())

    for _ in range(2):
        assert run_apart(desk.do("a", lambda _job: 1)) == 1
        until(lambda: not alive())


def test_a_closed_desk_ends_its_work() -> None:
    began = threading.Event()

    def long(job: Job[None]) -> None:
        while True:
            began.set()
            job.check()
            time.sleep(0.01)

    async def story() -> None:
        desk = Desk("closing")
        running = await asked(desk, "a", long)
        await asyncio.to_thread(began.wait, 10)
        waiting = await asked(desk, "a", long)
        desk.close()
        await asyncio.to_thread(desk.join)
        until(lambda: not [thread for thread in threading.enumerate() if thread.name == "viewer: closing"])
        for task, error in ((running, Abandoned), (waiting, asyncio.CancelledError)):
            with pytest.raises(error):
                await asyncio.wait_for(task, 5)

    run_apart(story())


def test_the_most_urgent_is_next_but_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.3)
    turns, order = Turns(), []

    def once(urgency: int, name: str) -> threading.Thread:
        def take() -> None:
            turns.take(urgency)
            order.append(name)
            turns.give()

        before = len(turns._tickets)
        thread = threading.Thread(target=take)
        thread.start()
        until(lambda: len(turns._tickets) > before)
        return thread

    turns.take(0)
    threads = [once(2, "screen"), once(0, "stamp"), once(1, "closer look"), once(0, "other stamp")]
    turns.give()
    for thread in threads:
        thread.join(5)
    assert order == ["stamp", "other stamp", "closer look", "screen"]
    order.clear()
    turns.take(0)
    threads = [once(2, "screen")]
    time.sleep(0.4)
    threads.append(once(0, "stamp"))
    turns.give()
    for thread in threads:
        thread.join(5)
    assert order == ["screen", "stamp"]


def test_a_turn_that_is_not_needed_any_more_is_left_to_the_next() -> None:
    turns, needed, taken = Turns(), [True], []

    def take(name: str, urgency: int, *asked: Callable[[], bool]) -> threading.Thread:
        def wait() -> None:
            if turns.take(urgency, *asked):
                taken.append(name)
                turns.give()

        before = len(turns._tickets)
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: len(turns._tickets) > before)
        return thread

    turns.take(0)
    threads = [take("answered meanwhile", 0, lambda: needed[0]), take("next", 1)]
    needed[0] = False
    turns.give()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert taken == ["next"]
