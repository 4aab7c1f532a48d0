"""Viewers of a small finished run and of a model, and a real browser."""

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.model import Architecture, create
from petechia.study import Run
from petechia.viewer.subject import Subject

T = TypeVar("T")

pytest.importorskip("fastapi", reason="the extra web is not installed")


@pytest.fixture(autouse=True)
def logging_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Petechia's logger as it is after import; commands that ran in this process before have configured it."""
    monkeypatch.setattr(logging.getLogger("petechia"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("petechia"), "handlers", [])


@pytest.fixture(scope="session")
def subject(finished: Run) -> Subject:
    return Subject(finished.directory.path, Compute(threads=1, device="cpu", precision="fp32").start())


class Served(str):
    """The address of a server, without a slash at its end.

    Attributes:
        token: that lets readers in.
    """

    __slots__ = ("token",)
    token: str

    def page(self, path: str) -> str:
        """The address of a page, with the token."""
        return f"{self}{path}?token={self.token}"


def client_of(
    subject: Subject, hosts: Iterable[str] = (), enter: bool = True, beside: Any = None, pacs: Any = None, **options: Any
) -> Any:
    """A client of the viewer that has entered with the token, and so has a cookie; on request beside another client."""
    from fastapi.testclient import TestClient

    from petechia.viewer.access import Access
    from petechia.viewer.app import make_app

    access = beside.access if beside else Access()
    app = beside.app if beside else make_app(subject, set(hosts), access, pacs)
    client = TestClient(app, base_url="http://127.0.0.1", **options)
    client.access = access  # type: ignore[attr-defined]
    if enter:
        assert client.get("/", params={"token": access.token}, follow_redirects=False).status_code == 303
    return client


def run_apart(story: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in another thread: in this one, the browser may have a loop of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, story).result()


@contextmanager
def serving(subject: Subject, pacs: Any = None) -> Iterator[Served]:
    """Run a server, and give its address."""
    from petechia.viewer.access import Access
    from petechia.viewer.app import make_app
    from petechia.viewer.server import _listening, make_server

    access = Access()
    with _listening("127.0.0.1", 0) as listener:
        server = make_server(make_app(subject, set(), access, pacs))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        address = Served(f"http://127.0.0.1:{listener.getsockname()[1]}")
        address.token = access.token
        yield address
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def address(subject: Subject) -> Iterator[Served]:
    """Address of the viewer of the run."""
    with serving(subject) as where:
        yield where


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model without a run that crops images; the names of its file and of its classes are HTML."""
    path = tmp_path_factory.mktemp("model") / "<img src=x onerror=alert(3)>.safetensors"
    classes = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>')
    create(Architecture(arch="test_resnet"), classes, Preprocess(crop=0.5, size=32, resample="nearest"), 0).save(path)
    return Subject(path, Compute(threads=1, device="cpu", precision="fp32").start())


@pytest.fixture(scope="session")
def hostile_address(hostile: Subject) -> Iterator[Served]:
    """Address of the viewer of that model."""
    with serving(hostile) as where:
        yield where


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed; on Debian: apt install chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()
