"""The viewer's pages and its interface, and what keeps strangers out of both."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Annotated, Any
from urllib.parse import urlsplit

import matplotlib as mpl
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

import petechia
from petechia.data.images import read_levels
from petechia.errors import PetechiaError
from petechia.explain.overlay import COLOURS, OPACITY
from petechia.measure import THRESHOLDS
from petechia.report.html import page_template, report_content
from petechia.serve.pictures import Picture, Pictures
from petechia.serve.subject import LAYERS, METHODS, Stamp, Subject

MOST_UPLOAD = 64 * 1024 * 1024  # bytes
MOST_STAMPS = 64
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class StampGiven(BaseModel):
    """A stamp as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    row: int = Field(ge=0, le=100_000)
    column: int = Field(ge=0, le=100_000)
    size: int = Field(ge=1, le=1024)
    value: int = Field(ge=0, le=255)


class Question(BaseModel):
    """What the page asks about a picture."""

    model_config = ConfigDict(extra="forbid")
    image: str = Field(max_length=64)
    stamps: Annotated[list[StampGiven], Field(max_length=MOST_STAMPS)] = []
    arm: str = Field(max_length=64)
    seed: int
    epoch: int
    target: int | None = None
    method: str = Field("gradcam", max_length=64)


def make_app(subject: Subject, hosts: set[str]) -> FastAPI:
    """The application.

    Args:
        subject: what it is about.
        hosts: names under which it may be reached, beside localhost and addresses in numbers.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    pictures = Pictures()
    _guard(app, hosts)
    _answer_errors(app)
    _add_pages(app, subject)
    _add_interface(app, subject, pictures)
    app.mount("/static", StaticFiles(packages=[("petechia.serve", "static")]))
    return app


def _guard(app: FastAPI, hosts: set[str]) -> None:
    """Let in only what was sent to this server by its own pages; say to browsers what these may do."""

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not _is_own(host, hosts):
            response: Response = _refusal(421, "This name does not lead here; use the address that petechia serve printed.")
        elif (origin is not None and urlsplit(origin).netloc != host) or request.headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            response = _refusal(403, "Other sites cannot use this viewer.")
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response


def _is_own(host: str, hosts: set[str]) -> bool:
    """Whether a Host header is ours: a foreign page can give its own name our address, but not a number."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(PetechiaError)
    async def sentence(_request: Request, error: PetechiaError) -> JSONResponse:
        return _refusal(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _refusal(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.")


def _add_pages(app: FastAPI, subject: Subject) -> None:
    names = {"name": subject.path.name, "is_run": subject.run is not None, "version": petechia.__version__}

    @app.get("/")
    def study() -> Response:
        if subject.run is None:
            return RedirectResponse("/read")
        content = report_content(subject.run) if subject.run.summary.is_file() else {"summary": None}
        return HTMLResponse(page_template("petechia.serve", "study.html").render(names | content))

    @app.get("/read")
    def read() -> HTMLResponse:
        return HTMLResponse(page_template("petechia.serve", "read.html").render(names | {"target": subject.target is not None}))

    @app.get("/report.css")
    def style() -> Response:
        files = (resources.files("petechia.report") / name for name in ("base.css", "report.css"))
        return Response("".join(file.read_text(encoding="utf-8") for file in files), media_type="text/css")


def _add_interface(app: FastAPI, subject: Subject, pictures: Pictures) -> None:
    @app.get("/api/session")
    def session() -> dict[str, Any]:
        return _session(subject)

    @app.get("/api/test/{position}")
    def test_image(position: int) -> dict[str, Any]:
        return _opened(subject, pictures, subject.test_image(position))

    @app.post("/api/images")
    async def upload(request: Request) -> dict[str, Any]:
        content = await _body(request)
        return await run_in_threadpool(lambda: _opened(subject, pictures, Picture(read_levels(content, "The image"))))

    @app.get("/api/images/{name}/levels")
    def levels(name: str) -> Response:
        values, _, _ = pictures.get(name).depth16
        return Response(values.astype("<u2").tobytes(), media_type="application/octet-stream")

    @app.post("/api/explain")
    def explain(question: Question) -> dict[str, Any]:
        stamps = [Stamp(**stamp.model_dump()) for stamp in question.stamps]
        network = question.arm, question.seed, question.epoch
        reading = subject.read(pictures.get(question.image), stamps, network, question.target, question.method)
        return {
            "target": reading.target,
            "scores": _rounded(reading.scores, 5),
            "maps": {layer: _rounded(maps, 7) for layer, maps in reading.maps.items()},
            "seen": [base64.b64encode(one.tobytes()).decode() for one in reading.seen],
            "size": reading.seen.shape[1],
            "changed": reading.changed,
        }


async def _body(request: Request) -> bytes:
    """The uploaded file, kept in memory.

    Raises:
        HTTPException: 413, it is too large; the rest of it is not read.
    """
    too_large = HTTPException(413, f"The file is larger than {MOST_UPLOAD // 1024**2} MiB; give a smaller one.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_UPLOAD:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_UPLOAD:
            raise too_large
    return bytes(content)


def _session(subject: Subject) -> dict[str, Any]:
    colours = (255 * np.asarray(mpl.colormaps[COLOURS](np.arange(256)))[:, :3]).round().astype(int)
    return {
        "classes": list(subject.description.classes),
        "target": subject.target,
        "networks": [{"arm": arm, "seed": seed, "epochs": epochs} for (arm, seed), epochs in subject.networks.items()],
        "layers": LAYERS,
        "methods": METHODS,
        "trigger": {"size": subject.trigger.size, "value": subject.trigger.value},
        "stage": subject.stage,
        "threshold": THRESHOLDS[0],
        "tests": subject.test_images,
        "without_target": subject.without_target(),
        "notice": subject.notice,
        "colours": colours.tolist(),
        "opacity": OPACITY,
        "most_upload": MOST_UPLOAD,
    }


def _opened(subject: Subject, pictures: Pictures, picture: Picture) -> dict[str, Any]:
    _, least, most = picture.depth16
    height, width = picture.levels.values.shape
    return {
        "image": pictures.add(picture),
        "height": height,
        "width": width,
        "least": least,
        "most": most,
        "low": picture.levels.low,
        "high": picture.levels.high,
        "kept": subject.kept(picture)._asdict(),
        "unit": subject.stamp_unit(picture),
        "findings": picture.findings,
        "place": picture.place,
    }


def _rounded(values: NDArray[np.float32], digits: int) -> Any:
    return np.asarray(values, np.float64).round(digits).tolist()
