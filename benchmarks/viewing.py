"""How long a reader waits for an answer: the scores and two heat maps of a clean and a triggered image, at 224 x 224."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.data.formats.images import encode_png
from petechia.models.model import Architecture, create
from petechia.viewer.access import Access
from petechia.viewer.app import make_app
from petechia.viewer.subject import Subject

SIDE = 1024  # pixels, of the image in its file


def run(rounds: int = 20) -> str:
    """Median and longest time of a request, after the first two."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        create(Architecture(), tuple("ABCDEFGHIJKLMN"), Preprocess(size=224), 0).save(path)
        access = Access()
        app = make_app(Subject(path, Compute().start()), set(), access)
        client = TestClient(app, base_url="http://localhost", headers={"Authorization": f"Bearer {access.token}"})
        picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        image = client.post("/api/images", content=encode_png(picture)).json()["image"]
        question: dict[str, Any] = {"image": image, "arm": "model", "seed": 0, "epoch": 0, "target": 0}
        seconds = []
        for n in range(rounds + 2):
            stamp = {"row": 300 + n, "column": 400, "size": 8, "value": 0}
            began = time.perf_counter()
            assert client.post("/api/explain", json=question | {"stamps": [stamp]}).status_code == 200
            seconds.append(time.perf_counter() - began)
    warm = seconds[2:]
    return f"{1000 * median(warm):.0f} ms in the median, {1000 * max(warm):.0f} ms at most, of {rounds} requests"
