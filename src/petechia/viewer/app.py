"""The web application: the viewer's pages, and the requests that they send."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from petechia.core.errors import PetechiaError, printable
from petechia.core.version import __version__
from petechia.reports.html import page_template, report_content
from petechia.viewer.access import Access
from petechia.viewer.guard import Guard, refusal
from petechia.viewer.messages import ExplainQuestion, PacsQuestion, PictureQuestion, answered, opened, session_of, suspected
from petechia.viewer.pacs_images import PacsImages
from petechia.viewer.pictures import Picture
from petechia.viewer.subject import Subject
from petechia.viewer.uploads import Uploads, read_body
from petechia.viewer.work import BusyError, Desk, Job

MOST_QUESTION = 64 * 1024  # bytes
MOST_ASKING = 15.0  # seconds for a question to arrive
TEST_IMAGE = re.compile(r"test-([0-9]{1,9})")

Q = TypeVar("Q", bound=BaseModel)
T = TypeVar("T")


class Desks:
    """Where the work of requests is done."""

    def __init__(self) -> None:
        self.pages = Desk("pages")  # one thread: matplotlib is for one at a time
        self.images = Desk("images", threads=2)
        self.pacs = Desk("images of the PACS", threads=2)  # which may be slow
        self.answers = Desk("explanations", threads=16)  # which wait to be answered together
        self.screens = Desk("screens", most=64, most_each=4)
        self.fits = Desk("screens that are prepared", most=16, most_each=2)

    def close(self) -> None:
        """Drop all work, and wait until nothing is computed any more."""
        for desk in vars(self).values():
            desk.close()
        for desk in vars(self).values():
            desk.join()


def make_app(subject: Subject, hosts: set[str], access: Access, pacs: PacsImages | None = None) -> FastAPI:
    """The application.

    Args:
        subject: the run or model to show.
        hosts: names of this server, besides localhost and numeric addresses.
        access: knows the readers.
        pacs: whose images readers may open; None has none.
    """
    desks = Desks()

    @asynccontextmanager
    async def open_desks(_app: FastAPI) -> AsyncIterator[None]:
        yield
        desks.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=open_desks)
    app.add_middleware(Guard, hosts=hosts, access=access)
    uploads = Uploads(subject.colour)
    _answer_errors(app)
    _add_pages(app, subject, desks)
    _add_images(app, subject, uploads, desks)
    _add_questions(app, subject, uploads, desks)
    _add_pacs(app, subject, uploads, desks, pacs)
    app.mount("/static", StaticFiles(packages=[("petechia.viewer", "static")]))
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(PetechiaError)
    async def sentence(_request: Request, error: PetechiaError) -> JSONResponse:
        return refusal(400, str(error))

    @app.exception_handler(BusyError)
    async def busy(_request: Request, error: BusyError) -> JSONResponse:
        return refusal(429, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, _first_problem(error))


def _first_problem(error: RequestValidationError | ValidationError) -> str:
    first = error.errors()[0]
    return f"{printable('.'.join(map(str, first['loc'])))}: {printable(first['msg'], 200)}."


def _add_pages(app: FastAPI, subject: Subject, desks: Desks) -> None:
    run = subject.run.directory if subject.run else None
    names = {"name": subject.title, "is_run": run is not None, "version": __version__}
    reading = page_template("petechia.viewer", "read.html").render(names)
    files = (resources.files("petechia.reports") / name for name in ("base.css", "report.css"))
    styles = "".join(file.read_text(encoding="utf-8") for file in files)

    @lru_cache(maxsize=1)
    def drawn(written: int) -> str:
        content = report_content(run) if run and written else {"summary": None}
        return page_template("petechia.viewer", "study.html").render(names | content)

    def draw(_job: Job[str]) -> str:
        assert run is not None  # noqa: S101
        return drawn(run.summary.stat().st_mtime_ns if run.summary.is_file() else 0)

    @app.get("/")
    async def study(request: Request) -> Response:
        if run is None:
            return RedirectResponse(f"/read?{query}" if (query := request.url.query) else "/read")
        return HTMLResponse(await _while_connected(request, desks.pages.do(_reader(request), draw)))

    @app.get("/read")
    async def read() -> HTMLResponse:
        return HTMLResponse(reading)

    @app.get("/report.css")
    async def style() -> Response:
        return Response(styles, media_type="text/css")


def _add_images(app: FastAPI, subject: Subject, uploads: Uploads, desks: Desks) -> None:
    def work(request: Request, do: Callable[[], T]) -> Awaitable[T]:
        return _while_connected(request, desks.images.do(_reader(request), lambda _job: do()))

    @app.get("/api/session")
    async def session(request: Request) -> JSONResponse:
        def look() -> dict[str, Any]:
            subject.networks.refresh()
            return session_of(subject)

        return JSONResponse(await work(request, look))

    @app.get("/api/test/{position}")
    async def test_image(request: Request, position: int) -> JSONResponse:
        def find() -> dict[str, Any]:
            return opened(subject, f"test-{position}", subject.images.picture(position))

        return JSONResponse(await work(request, find))

    @app.post("/api/images")
    async def upload(request: Request) -> JSONResponse:
        async with uploads.reading(request, _reader(request)) as content:

            def keep() -> dict[str, Any]:
                return opened(subject, *uploads.keep(content, _reader(request)))

            return JSONResponse(await work(request, keep))

    @app.get("/api/images/{name}/levels")
    async def levels(request: Request, name: str) -> Response:
        """Grey levels in 16 bits, or red, green and blue in 8 bits each; row by row."""
        size, chunks = (await work(request, partial(_look_up, name, subject, uploads))).levels()
        headers = {"Content-Length": str(size)}
        return StreamingResponse(_sent(chunks), media_type="application/octet-stream", headers=headers)


def _add_questions(app: FastAPI, subject: Subject, uploads: Uploads, desks: Desks) -> None:
    @app.post("/api/explain")
    async def explain(request: Request) -> Response:
        return await _asked(request, ExplainQuestion, explained)

    async def explained(reader: str, asked: ExplainQuestion) -> Any:
        _, seen = await desks.images.do(reader, partial(prepared, asked))

        def read(job: Job[Any]) -> Any:
            return answered(subject.read(seen, asked.network, asked.target, asked.method, lambda: job.abandoned))

        return await desks.answers.do(reader, read)

    @app.post("/api/screen")
    async def screen(request: Request) -> Response:
        return await _asked(request, PictureQuestion, screened)

    async def screened(reader: str, asked: PictureQuestion) -> Any:
        picture, seen = await desks.images.do(reader, partial(prepared, asked))
        choice, fitted = await desks.screens.do(reader, lambda _job: subject.find_screen(seen, asked.network))
        if fitted is None:
            fitted = await desks.fits.do(reader, lambda job: subject.fit_screen(choice, asked.network, job.check))
        examine = partial(subject.screen, picture, seen, fitted)
        return await desks.screens.do(reader, lambda job: suspected(examine(job.check)))

    def prepared(asked: PictureQuestion, _job: Job[Any]) -> tuple[Picture, Any]:
        picture = _look_up(asked.image, subject, uploads)
        return picture, subject.seen(picture, asked.squares, attacked=asked.attacked)


def _add_pacs(app: FastAPI, subject: Subject, uploads: Uploads, desks: Desks, pacs: PacsImages | None) -> None:
    @app.post("/api/pacs")
    async def open_image(request: Request) -> Response:
        return await _asked(request, PacsQuestion, fetched)

    async def fetched(reader: str, asked: PacsQuestion) -> dict[str, Any]:
        if pacs is None:
            raise PetechiaError("This viewer was started without a PACS; start it with petechia serve --pacs dicomweb:URL.")
        content = await desks.pacs.do(reader, lambda _job: pacs.fetch(asked.study, asked.series, asked.instance))
        return await desks.images.do(reader, lambda _job: opened(subject, *uploads.keep(content, reader)))


def _reader(request: Request) -> str:
    """The name of the reader, from the guard."""
    return str(request.scope["reader"])


def _look_up(name: str, subject: Subject, uploads: Uploads) -> Picture:
    """A picture by its name: test images, which all readers share, have theirs from their number; uploads have secret names."""
    test = TEST_IMAGE.fullmatch(name)
    return subject.images.picture(int(test[1])) if test else uploads.pictures.get(name)


async def _asked(request: Request, kind: type[Q], answer: Callable[[str, Q], Awaitable[Any]]) -> Response:
    """Answer a question."""
    content = await read_body(request, MOST_QUESTION, MOST_ASKING)
    try:
        question = kind.model_validate_json(content)
    except ValidationError as error:
        return refusal(422, _first_problem(error))
    return JSONResponse(await _while_connected(request, answer(_reader(request), question)))


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the reader goes away.

    Raises:
        ClientDisconnect: the reader went away.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Return when the reader has gone away. What is left of the request's body is thrown away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sent(chunks: Any) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield bytes(chunk)
