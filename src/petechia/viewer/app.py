"""The viewer's pages and its interface."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, TypeVar

import matplotlib as mpl
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from petechia.core.errors import PetechiaError
from petechia.core.version import __version__
from petechia.measure import THRESHOLDS
from petechia.reports.html import page_template, report_content
from petechia.saliency.overlays import COLOURS, OPACITY
from petechia.viewer.guard import Guard, refusal
from petechia.viewer.pictures import Picture, Pictures
from petechia.viewer.screens import Network, Suspected
from petechia.viewer.subject import LAYERS, METHODS, Reading, Stamp, Subject

MOST_UPLOAD = 64 * 1024 * 1024  # bytes
MOST_UPLOADS = 8  # at once
MOST_DECODING = 2  # at once
MOST_SECONDS = 60.0  # that an upload may take
MOST_SIDE = 32_767  # pixels; browsers draw no larger
MOST_QUESTION = 64 * 1024  # bytes
MOST_STAMPS = 64
TEST_IMAGE = re.compile(r"test-([0-9]{1,9})")


class StampGiven(BaseModel):
    """A stamp as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    row: int = Field(ge=0, le=100_000)
    column: int = Field(ge=0, le=100_000)
    size: int = Field(ge=1, le=1024)
    value: int = Field(ge=0, le=255)


class LogitAdapter(BaseModel):
    """A picture and a network that the page asks about."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(max_length=64)
    stamps: Annotated[list[StampGiven], Field(max_length=MOST_STAMPS)] = []
    attacked: bool = False
    arm: str = Field(max_length=64)
    seed: int
    epoch: int

    def about(self) -> tuple[list[Stamp], Network]:
        """The stamps and the network."""
        return [Stamp(**stamp.model_dump()) for stamp in self.stamps], (self.arm, self.seed, self.epoch)


class Question(LogitAdapter):
    """What the page asks about them."""

    target: int | None = None
    method: str = Field("gradcam", max_length=64)


Q = TypeVar("Q", bound=LogitAdapter)


def make_app(subject: Subject, hosts: set[str]) -> FastAPI:
    """The application.

    Args:
        subject: what it is about.
        hosts: names under which it may be reached, beside localhost and addresses in numbers.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts)
    _answer_errors(app)
    _add_pages(app, subject)
    _add_interface(app, subject, Uploads(subject.colour))
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
    names = {"name": subject.title, "is_run": subject.run is not None, "version": __version__}
    drawing = threading.Lock()  # matplotlib is for one thread at a time

    @lru_cache(maxsize=1)
    def drawn(written: int) -> str:
        content = report_content(subject.run) if subject.run and written else {"summary": None}
        return page_template("petechia.viewer", "study.html").render(names | content)

    @app.get("/")
    def study() -> Response:
        if subject.run is None:
            return RedirectResponse("/read")
        summary = subject.run.summary
        with drawing:
            return HTMLResponse(drawn(summary.stat().st_mtime_ns if summary.is_file() else 0))

    @app.get("/read")
    def read() -> HTMLResponse:
        return HTMLResponse(page_template("petechia.viewer", "read.html").render(names))

    @app.get("/report.css")
    def style() -> Response:
        files = (resources.files("petechia.reports") / name for name in ("base.css", "report.css"))
        return Response("".join(file.read_text(encoding="utf-8") for file in files), media_type="text/css")


def _add_interface(app: FastAPI, subject: Subject, uploads: Uploads) -> None:
    def look_up(name: str) -> Picture:
        """Test images have names that say which, for many may look at the same; uploads have unguessable ones."""
        test = TEST_IMAGE.fullmatch(name)
        return subject.test_image(int(test[1])) if test else uploads.pictures.get(name)

    @app.get("/api/session")
    def session() -> dict[str, Any]:
        subject.refresh()
        return _session(subject)

    @app.get("/api/test/{position}")
    def test_image(position: int) -> dict[str, Any]:
        return _opened(subject, f"test-{position}", subject.test_image(position))

    @app.post("/api/images")
    async def upload(request: Request) -> dict[str, Any]:
        async with uploads.reading(request) as content:
            name, picture = await run_in_threadpool(uploads.keep, content)
        return await run_in_threadpool(_opened, subject, name, picture)

    @app.get("/api/images/{name}/levels")
    def levels(name: str) -> Response:
        """Grey levels in 16 bits, or red, green and blue in 8 bits each; row by row."""
        picture = look_up(name)
        content = picture.depth16.astype("<u2", copy=False) if picture.colour is None else picture.colour
        return Response(content.tobytes(), media_type="application/octet-stream")

    @app.post("/api/explain")
    async def explain(request: Request) -> Response:
        return await _asked(request, Question, explained)

    def explained(question: Question) -> dict[str, Any]:
        asked = (*question.about(), question.target, question.method, question.attacked)
        return _answered(subject.read(look_up(question.image), *asked))

    @app.post("/api/screen")
    async def screen(request: Request) -> Response:
        return await _asked(request, LogitAdapter, screened)

    def screened(question: LogitAdapter) -> dict[str, Any]:
        return _suspected(subject.screen(look_up(question.image), *question.about(), question.attacked))


class Uploads:
    """The readers' own images, and what bounds the memory that they can take.

    Attributes:
        pictures: those that are kept.
    """

    def __init__(self, colour: bool) -> None:
        self.pictures = Pictures()
        self._colour = colour
        self._receiving = threading.BoundedSemaphore(MOST_UPLOADS)
        self._decoding = threading.BoundedSemaphore(MOST_DECODING)

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The uploaded file.

        Raises:
            HTTPException: it is too large, takes too long, or too many are on their way.
        """
        if not self._receiving.acquire(blocking=False):
            raise HTTPException(503, "Too many images are being opened at once; try again in a moment.")
        try:
            yield await asyncio.wait_for(_body(request, MOST_UPLOAD), MOST_SECONDS)
        except TimeoutError:
            raise HTTPException(408, f"The image took longer than {MOST_SECONDS:.0f} seconds; try again.") from None
        finally:
            self._receiving.release()

    def keep(self, content: bytes) -> tuple[str, Picture]:
        """Decode an image; its name and itself.

        Raises:
            PetechiaError: it cannot be read, or a browser could not show it.
        """
        with self._decoding:
            picture = Picture.read(content, "The image", self._colour)
        height, width = picture.levels.values.shape
        if max(height, width) > MOST_SIDE:
            raise PetechiaError(f"The image has {width} x {height} pixels; give one of at most {MOST_SIDE:,} a side.")
        return self.pictures.add(picture), picture


async def _asked(request: Request, kind: type[Q], answer: Callable[[Q], dict[str, Any]]) -> Response:
    """Answer a question, away from the thread that talks to the browsers."""
    content = await _body(request, MOST_QUESTION)
    try:
        question = kind.model_validate_json(content)
    except ValidationError as error:
        return refusal(422, _first_problem(error))
    return JSONResponse(await run_in_threadpool(answer, question))


async def _body(request: Request, most: int) -> bytes:
    """What was sent, kept in memory.

    Raises:
        HTTPException: 413, it is too large; the rest of it is not read.
    """
    size = f"{most // 1024**2} MiB" if most >= 1024**2 else f"{most // 1024} KiB"
    too_large = HTTPException(413, f"This is larger than {size}; send less.", {"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_large
    return bytes(content)


def _session(subject: Subject) -> dict[str, Any]:
    colours = (255 * np.asarray(mpl.colormaps[COLOURS](np.arange(256)))[:, :3]).round().astype(int)
    return {
        "classes": list(subject.classes),
        "target": subject.target,
        "networks": [{"arm": arm, "seed": seed, "epochs": epochs} for (arm, seed), epochs in subject.networks.items()],
        "layers": LAYERS,
        "methods": METHODS,
        "trigger": {"size": subject.brush.size, "value": subject.brush.value},
        "attack": {"text": subject.trigger.describe(), "square": subject.trigger.brush is not None},
        "stage": subject.stage,
        "preprocess": subject.preprocess.model_dump(),
        "threshold": THRESHOLDS[0],
        "tests": subject.test_images,
        "without_target": subject.without_target(),
        "notice": subject.notice,
        "clean_images": subject.clean_images,
        "no_screen": subject.no_screen,
        "colours": colours.tolist(),
        "opacity": OPACITY,
        "most_upload": MOST_UPLOAD,
    }


def _opened(subject: Subject, name: str, picture: Picture) -> dict[str, Any]:
    height, width = picture.levels.values.shape
    return {
        "image": name,
        "height": height,
        "width": width,
        "colour": picture.colour is not None,
        "least": picture.span[0],
        "most": picture.span[1],
        "low": picture.levels.low,
        "high": picture.levels.high,
        "kept": subject.kept(picture)._asdict(),
        "input": subject.preprocess.size if subject.stamps_input(picture) else None,
        "findings": picture.findings,
        "place": subject.attackers_place(picture),
    }


def _answered(reading: Reading) -> dict[str, Any]:
    """Maps go as shares of their own maximum, so that small numbers keep their digits."""
    hottest = {layer: maps.max(axis=(1, 2)) for layer, maps in reading.maps.items()}
    shares = {layer: maps / np.maximum(hottest[layer], 1e-30)[:, None, None] for layer, maps in reading.maps.items()}
    return {
        "target": reading.target,
        "scores": _rounded(reading.scores, 5),
        "maps": {layer: _rounded(maps, 4) for layer, maps in shares.items()},
        "hottest": {layer: one.astype(float).tolist() for layer, one in hottest.items()},
        "seen": [base64.b64encode(one.tobytes()).decode() for one in reading.seen],
        "size": reading.seen.shape[1],
        "changed": reading.changed,
    }


def _suspected(found: Suspected) -> dict[str, Any]:
    return {
        "suspicion": found.evidence.suspicion,
        "threshold": found.threshold,
        "rate": found.rate,
        "images": found.images,
        "flagged": found.evidence.flagged,
        "target": found.target,
        "box": found.box._asdict(),
        "pixels": int(found.evidence.pixels.sum()),
        "warnings": found.warnings,
    }


def _rounded(values: NDArray[np.float32], digits: int) -> Any:
    return np.asarray(values, np.float64).round(digits).tolist()
