"""The web application: the viewer's pages, and the requests that they send."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from petechia.core.errors import PetechiaError
from petechia.core.version import __version__
from petechia.reports.html import page_template, report_content
from petechia.viewer.guard import Guard, refusal
from petechia.viewer.messages import ExplainQuestion, PictureQuestion, answered, opened, session_of, suspected
from petechia.viewer.pictures import Picture
from petechia.viewer.subject import Subject
from petechia.viewer.uploads import Uploads, read_body

MOST_QUESTION = 64 * 1024  # bytes
TEST_IMAGE = re.compile(r"test-([0-9]{1,9})")

Q = TypeVar("Q", bound=PictureQuestion)


def make_app(subject: Subject, hosts: set[str]) -> FastAPI:
    """The application.

    Args:
        subject: the run or model to show.
        hosts: names of this server, besides localhost and numeric addresses.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts)
    uploads = Uploads(subject.colour)
    _answer_errors(app)
    _add_pages(app, subject)
    _add_images(app, subject, uploads)
    _add_questions(app, subject, uploads)
    app.mount("/static", StaticFiles(packages=[("petechia.viewer", "static")]))
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(PetechiaError)
    async def sentence(_request: Request, error: PetechiaError) -> JSONResponse:
        return refusal(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(422, _first_problem(error))


def _first_problem(error: RequestValidationError | ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}."


def _add_pages(app: FastAPI, subject: Subject) -> None:
    run = subject.run.directory if subject.run else None
    names = {"name": subject.title, "is_run": run is not None, "version": __version__}
    drawing = threading.Lock()  # matplotlib is for one thread at a time

    @lru_cache(maxsize=1)
    def drawn(written: int) -> str:
        content = report_content(run) if run and written else {"summary": None}
        return page_template("petechia.viewer", "study.html").render(names | content)

    @app.get("/")
    def study() -> Response:
        if run is None:
            return RedirectResponse("/read")
        with drawing:
            return HTMLResponse(drawn(run.summary.stat().st_mtime_ns if run.summary.is_file() else 0))

    @app.get("/read")
    def read() -> HTMLResponse:
        return HTMLResponse(page_template("petechia.viewer", "read.html").render(names))

    @app.get("/report.css")
    def style() -> Response:
        files = (resources.files("petechia.reports") / name for name in ("base.css", "report.css"))
        return Response("".join(file.read_text(encoding="utf-8") for file in files), media_type="text/css")


def _add_images(app: FastAPI, subject: Subject, uploads: Uploads) -> None:
    @app.get("/api/session")
    def session() -> dict[str, Any]:
        subject.networks.refresh()
        return session_of(subject)

    @app.get("/api/test/{position}")
    def test_image(position: int) -> dict[str, Any]:
        return opened(subject, f"test-{position}", subject.images.picture(position))

    @app.post("/api/images")
    async def upload(request: Request) -> dict[str, Any]:
        async with uploads.reading(request) as content:
            name, picture = await run_in_threadpool(uploads.keep, content)
        return await run_in_threadpool(opened, subject, name, picture)

    @app.get("/api/images/{name}/levels")
    def levels(name: str) -> Response:
        """Grey levels in 16 bits, or red, green and blue in 8 bits each; row by row."""
        picture = _look_up(name, subject, uploads)
        content = picture.depth16.astype("<u2", copy=False) if picture.colour is None else picture.colour
        return Response(content.tobytes(), media_type="application/octet-stream")


def _add_questions(app: FastAPI, subject: Subject, uploads: Uploads) -> None:
    @app.post("/api/explain")
    async def explain(request: Request) -> Response:
        return await _asked(request, ExplainQuestion, explained)

    def explained(asked: ExplainQuestion) -> dict[str, Any]:
        picture = _look_up(asked.image, subject, uploads)
        return answered(
            subject.read(picture, asked.squares, asked.network, asked.target, asked.method, attacked=asked.attacked)
        )

    @app.post("/api/screen")
    async def screen(request: Request) -> Response:
        return await _asked(request, PictureQuestion, screened)

    def screened(asked: PictureQuestion) -> dict[str, Any]:
        picture = _look_up(asked.image, subject, uploads)
        return suspected(subject.screen(picture, asked.squares, asked.network, attacked=asked.attacked))


def _look_up(name: str, subject: Subject, uploads: Uploads) -> Picture:
    """A picture by its name: test images, which all readers share, have theirs from their number; uploads have secret names."""
    test = TEST_IMAGE.fullmatch(name)
    return subject.images.picture(int(test[1])) if test else uploads.pictures.get(name)


async def _asked(request: Request, kind: type[Q], answer: Callable[[Q], dict[str, Any]]) -> Response:
    """Answer a question in another thread than the one that talks to browsers."""
    content = await read_body(request, MOST_QUESTION)
    try:
        question = kind.model_validate_json(content)
    except ValidationError as error:
        return refusal(422, _first_problem(error))
    return JSONResponse(await run_in_threadpool(answer, question))
