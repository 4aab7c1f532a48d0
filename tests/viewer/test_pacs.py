"""The viewer opens images of a PACS by their UIDs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petechia.core.errors import PetechiaError
from petechia.viewer.pacs_images import PacsImages
from petechia.viewer.subject import Subject
from tests.data.formats.test_dicom import made, written
from tests.orthanc import PASSWORD, USER, Orthanc, orthanc
from tests.viewer.conftest import client_of, serving

pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 50, 70), np.uint8)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for number, pixels in enumerate(PIXELS):
            uids = {"SOPInstanceUID": f"1.2.{number}", "StudyInstanceUID": "1.3", "SeriesInstanceUID": f"1.4.{number}"}
            description = "Petechia" if number == 0 else "chest"
            running.store(written(made(pixels, PatientID="SECRET", Modality="DX", SeriesDescription=description, **uids)))
        yield running


@pytest.fixture
def images(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch) -> PacsImages:
    monkeypatch.setenv("PETECHIA_DICOMWEB_USER", USER)
    monkeypatch.setenv("PETECHIA_DICOMWEB_PASSWORD", PASSWORD)
    return PacsImages(f"dicomweb:{pacs.url}")


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ({"study": "1.3"}, 1),  # not what Petechia has stored
        ({"study": "1.3", "series": "1.4.2"}, 2),
        ({"study": "1.3", "instance": "1.2.0"}, 0),
        ({"study": "1.3", "series": "1.4.2", "instance": "1.2.2"}, 2),
    ],
)
def test_an_image_is_opened(subject: Subject, images: PacsImages, asked: dict[str, str], number: int) -> None:
    client = client_of(subject, pacs=images)
    found = client.post("/api/pacs", json=asked).json()
    assert (found["height"], found["width"]) == (50, 70)
    levels = np.frombuffer(client.get(f"/api/images/{found['image']}/levels").content, "<u2").reshape(50, 70)
    assert np.array_equal(levels, PIXELS[number].astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({"study": "1.99"}, 400, "The PACS has no such image"),
        ({"study": "1.3", "instance": "1.2.77"}, 400, "The PACS has no such image"),
        ({"study": "../system"}, 422, "study"),
        ({"study": "1.3", "series": "<b>"}, 422, "series"),
        ({"study": "1..3"}, 400, "is no UID"),
        ({"study": ""}, 400, "is no UID"),
        ({"series": "1.3"}, 422, "study"),
        ({"study": "1.3", "url": "http://elsewhere"}, 422, "url"),
    ],
)
def test_what_is_not_opened(subject: Subject, images: PacsImages, asked: dict[str, str], status: int, sentence: str) -> None:
    answer = client_of(subject, pacs=images).post("/api/pacs", json=asked)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]


def test_without_a_pacs_or_a_token(subject: Subject, images: PacsImages) -> None:
    answer = client_of(subject).post("/api/pacs", json={"study": "1.3"})
    assert answer.status_code == 400
    assert "started without a PACS" in answer.json()["detail"]
    assert client_of(subject, pacs=images, enter=False).post("/api/pacs", json={"study": "1.3"}).status_code == 401


def test_what_is_no_pacs() -> None:
    for source in ("phantom", "dicomweb:", "dicomweb:https://x/y,days=3"):
        with pytest.raises(PetechiaError, match="--pacs"):
            PacsImages(source)


def test_the_page_opens_the_image_that_its_address_names(
    browser: Any, subject: Subject, images: PacsImages, tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with serving(subject, images) as address:
        page = browser.new_page()
        page.goto(address.page("/read"))
        page.goto(f"{address}/read?study=1.3&instance=1.2.2")
        playwright.expect(page.locator("#about")).to_contain_text("image of the PACS, 70 × 50 pixels")
        page.goto(f"{address}/read?study=1.3&instance=%3Cimg%20src=x%3E")
        playwright.expect(page.locator("body")).to_contain_text("instance")
        assert page.locator("img[src=x]").count() == 0
        page.close()
