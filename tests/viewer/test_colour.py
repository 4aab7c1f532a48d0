"""The reading page of a network that takes colours, in a real browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.data.formats.images import encode_png
from petechia.models.model import Architecture, create
from petechia.viewer.subject import Subject
from tests.viewer.conftest import serving
from tests.viewer.test_browser import expect, slide

HALVES = np.zeros((40, 40, 3), np.uint8)
HALVES[:, :20], HALVES[:, 20:] = (200, 90, 30), (10, 160, 220)
PIXEL = "(canvas, x) => [...canvas.getContext('2d').getImageData(x * canvas.width, canvas.height / 2, 1, 1).data].slice(0, 3)"


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    architecture = Architecture(arch="test_resnet", channels=3)
    create(architecture, ("A", "B"), Preprocess(size=32), 0).save(tmp_path / "m.safetensors")
    return Subject(tmp_path / "m.safetensors", Compute(threads=1, device="cpu", precision="fp32").start())


def test_colours_are_painted_told_and_inverted(browser: Any, subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "halves.png").write_bytes(encode_png(HALVES))
    with serving(subject) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})  # reading pixels back makes Chromium complain
        page.goto(address.page("/read"))
        expect(page, "#status", "Open an image")
        page.set_input_files("#file", str(tmp_path / "halves.png"))
        expect(page, "#status", "A: 0.")
        slide(page, "#opacity", 0)
        page.wait_for_timeout(100)
        at = [page.locator("#clean").evaluate(PIXEL, x) for x in (0.25, 0.75)]
        assert at == [[200, 90, 30], [10, 160, 220]]
        assert page.locator("#seen-clean").evaluate(PIXEL, 0.25) == [200, 90, 30]
        box = page.locator("#clean").bounding_box()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
        expect(page, "#probe", "value 200 90 30")
        page.locator("#invert").click()
        page.wait_for_timeout(100)
        assert page.locator("#clean").evaluate(PIXEL, 0.25) == [55, 165, 225]
        page.close()
