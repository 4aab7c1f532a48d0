"""Readers at once: how long they wait for a stamp, beyond the model's own time, while others open images and screen them.

`python -m benchmarks.viewer --minutes 10` starts a viewer of DenseNet-121 with random weights at 224 x 224, and lets 20 readers
use it as its pages do. It exits with 1 if a wait is longer than 2 s beyond the model's own time, if a request fails, or if the
viewer takes more than 4 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx2
import numpy as np

from petechia.data import Preprocess
from petechia.data.formats.images import encode_png
from petechia.models.model import Architecture, create

SIDE = 1024  # pixels, of the readers' images
PAUSE = (0.5, 3.5)  # seconds between a reader's answer and the next stamp
STAMPS = 12  # on one image, before the reader opens another
MOST_WAIT, MOST_MEMORY = 2.0, 4 * 1024  # seconds; MB
OWN = 30  # stamps from which the model's own time is taken


class Heard(NamedTuple):
    """What the readers noticed.

    Attributes:
        waits: seconds from each stamp to its answer.
        opened: seconds to open each image.
        screens: seconds for each screen.
        statuses: number of answers by status.
    """

    waits: list[float]
    opened: list[float]
    screens: list[float]
    statuses: Counter[int]


class Viewer(NamedTuple):
    """A running viewer: its process, the address of its page, and the token."""

    process: subprocess.Popen[str]
    address: str
    token: str

    def peak(self) -> float:
        """The most memory that it has had, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024


class Reader:
    """Reads images as the page does: one question at a time, and again after a while if the viewer is busy."""

    def __init__(self, number: int, viewer: Viewer, heard: Heard) -> None:
        self._heard, self._token = heard, viewer.token
        self._chance, self._pixels = random.Random(number), np.random.default_rng(number)  # noqa: S311
        self._client = httpx2.AsyncClient(base_url=viewer.address, timeout=None)  # waiting is measured

    async def enter(self) -> None:
        """Exchange the token for a cookie, and load the page."""
        entered = await self._client.get("/read", params={"token": self._token})
        assert entered.status_code == 303, entered.text
        for path in ("/read", "/static/read.js", "/api/session"):
            await self._send("GET", path)

    async def open(self) -> str:
        """Open an image."""
        began = time.perf_counter()
        coarse = self._pixels.integers(0, 256, (SIDE // 8, SIDE // 8), np.uint8)
        content = await asyncio.to_thread(encode_png, coarse.repeat(8, axis=0).repeat(8, axis=1))
        image: str = (await self._send("POST", "/api/images", content=content)).json()["image"]
        await self._send("GET", f"/api/images/{image}/levels")
        await self._explain(image, [])
        self._heard.opened.append(time.perf_counter() - began)
        return image

    async def stamp(self, image: str) -> None:
        """Stamp an image, and wait for the answer."""
        row, column = (self._chance.randrange(SIDE - 40) for _ in range(2))
        began = time.perf_counter()
        await self._explain(image, [{"row": row, "column": column, "size": 32, "value": 0}])
        self._heard.waits.append(time.perf_counter() - began)

    async def screen(self, image: str) -> None:
        """Screen an image."""
        began = time.perf_counter()
        await self._send("POST", "/api/screen", json={"image": image, "arm": "model", "seed": 0, "epoch": 0})
        self._heard.screens.append(time.perf_counter() - began)

    async def read(self, until: float, screens: bool) -> None:
        """Read until a time."""
        await self.enter()
        screening: asyncio.Task[None] | None = None
        while time.perf_counter() < until:
            image = await self.open()
            if screens and (screening is None or screening.done()):
                screening = asyncio.create_task(self.screen(image))
            for _ in range(STAMPS):
                await asyncio.sleep(self._chance.uniform(*PAUSE))
                if time.perf_counter() >= until:
                    break
                await self.stamp(image)
        if screening is not None:
            screening.cancel()
            await asyncio.gather(screening, return_exceptions=True)
        await self._client.aclose()

    async def _explain(self, image: str, stamps: list[dict[str, int]]) -> None:
        question = {"image": image, "stamps": stamps, "arm": "model", "seed": 0, "epoch": 0, "target": 0}
        await self._send("POST", "/api/explain", json=question)

    async def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        while True:
            answer = await self._client.request(method, path, **content)
            self._heard.statuses[answer.status_code] += 1
            if answer.status_code != 429:
                answer.raise_for_status()
                return answer
            await asyncio.sleep(int(answer.headers["retry-after"]))


@contextlib.contextmanager
def serving(threads: int) -> Iterator[Viewer]:
    """Start a viewer, and stop it in the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        create(Architecture(), tuple("ABCDEFGHIJKLMN"), Preprocess(size=224), 0).save(path)
        command = [sys.executable, "-m", "petechia", "serve", str(path), "--port", "0", "--clean", "phantom:images=50,size=256"]
        command += ["--threads", str(threads)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = re.search(r"(http://\S+)/\?token=(\S+)", process.stdout.readline())
            assert found is not None
            try:
                yield Viewer(process, found[1], found[2])
            finally:
                process.send_signal(signal.SIGINT)


async def own_time(viewer: Viewer) -> float:
    """Seconds from a stamp to its answer for a reader who is alone, in the median."""
    heard = Heard([], [], [], Counter())
    reader = Reader(-1 % 2**32, viewer, heard)
    await reader.enter()
    image = await reader.open()
    for _ in range(OWN + 2):
        await reader.stamp(image)
    return median(heard.waits[2:])


async def load(viewer: Viewer, readers: int, screeners: int, seconds: float) -> Heard:
    """Let readers read, of whom some also screen."""
    heard, until = Heard([], [], [], Counter()), time.perf_counter() + seconds
    await asyncio.gather(*(Reader(number, viewer, heard).read(until, number < screeners) for number in range(readers)))
    return heard


def spread(seconds: list[float]) -> str:
    """Median, 95th percentile and maximum."""
    if not seconds:
        return "none"
    low, high = np.percentile(seconds, (50, 95))
    return f"median {low:.2f} s, 95 % {high:.2f} s, longest {max(seconds):.2f} s, of {len(seconds):,}"


def main() -> int:
    """Print what the readers noticed; return 1 if it is too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--screeners", type=int, default=1, help="readers who also screen each of their images")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=0, help="of the viewer; 0 takes all")
    given = parser.parse_args()
    with serving(given.threads) as viewer:
        own = asyncio.run(own_time(viewer))
        heard = asyncio.run(load(viewer, given.readers, given.screeners, 60 * given.minutes))
        peak, alive = viewer.peak(), viewer.process.poll() is None
    beyond = [max(0.0, wait - own) for wait in heard.waits]
    print(f"{given.readers} readers for {given.minutes:g} minutes, {os.cpu_count()} cores")
    print(f"a stamp, for a reader alone: {own:.2f} s")
    print(f"beyond that, for each of them: {spread(beyond)}")
    print(f"opening an image: {spread(heard.opened)}")
    print(f"screening one: {spread(heard.screens)}")
    print(f"answers: {', '.join(f'{count:,} with {status}' for status, count in sorted(heard.statuses.items()))}")
    print(f"peak memory of the viewer: {peak:,.0f} MB")
    good = alive and max(beyond) <= MOST_WAIT and peak <= MOST_MEMORY and set(heard.statuses) <= {200, 429}
    print("passed" if good else "failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
