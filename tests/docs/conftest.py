"""One small attacked network, and one small dataset in NIH's layout, for all pages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import pydicom.data
import pytest

import petechia
from petechia.data import open_source
from tests.data.formats.test_dicom import made, written
from tests.docs.pages import ROOT
from tests.docs.story import Story, tell
from tests.orthanc import PASSWORD, USER, Orthanc, orthanc

FIRST = "docs/tutorials/index.md"  # makes runs/first, which the other tutorials go on from
BUYER = "docs/tutorials/buyer.md"
LOOP = "docs/tutorials/pacs.md"
PACS = "https://pacs.example/dicom-web"
CHECKPOINT = "checkpoints/attacked-seed-0/epoch-04.safetensors"

Stories = Callable[[str], Story]


@pytest.fixture(scope="session")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in the layout of NIH ChestX-ray14, in place of /data/ChestX-ray14."""
    folder = tmp_path_factory.mktemp("nih") / "ChestX-ray14"
    petechia.poison({"data": "phantom:images=160,size=64", "attack": {"rate": 0}}, folder)
    (folder / "poison.parquet").unlink()
    return folder


@pytest.fixture(scope="session")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Orthanc]]:
    """Starts the PACS of the pages when it is first asked for: 16 phantoms, of which every fourth is stamped as in the run."""
    with ExitStack() as stack:

        def start() -> Orthanc:
            pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
            running = stack.enter_context(orthanc(tmp_path_factory.mktemp("pacs")))
            phantoms = open_source("phantom:images=16,size=64,seed=9")
            for number, image in enumerate(phantoms.reader.read(np.arange(16))):
                pixels = np.array(image)
                if number % 4 == 0:
                    pixels[30:33, 30:33] = 0
                uids = {"SOPInstanceUID": f"1.2.{number}", "StudyInstanceUID": f"1.3.{number}"}
                given = uids | {"SeriesInstanceUID": f"1.4.{number}", "Modality": "DX", "PatientID": str(number)}
                running.store(written(made(pixels, **given)))
            stack.enter_context(pytest.MonkeyPatch.context()).setattr("tests.docs.story.PLACES", {PACS: running.url})
            return running

        started = cache(start)
        yield started


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory, radiographs: Path, pacs: Callable[[], Orthanc]) -> Stories:
    """The result of a page. The page is run at the first request."""
    told: dict[str, Story] = {}

    def story(page: str) -> Story:
        if page not in told:
            folder = tmp_path_factory.mktemp(Path(page).stem)
            shutil.copytree(radiographs, folder / "data" / "ChestX-ray14")
            furnish(page, folder)
            with pytest.MonkeyPatch.context() as environment:
                if page == LOOP:
                    pacs()
                    environment.setenv("PETECHIA_DICOMWEB_USER", USER)
                    environment.setenv("PETECHIA_DICOMWEB_PASSWORD", PASSWORD)
                told[page] = tell(page, folder)
        return told[page]

    def furnish(page: str, folder: Path) -> None:
        """Put into the folder what a reader of the page already has, or what a command that is only parsed would leave."""
        if page.startswith("docs/tutorials/") and page != FIRST:
            shutil.copytree(story(FIRST).folder / "runs", folder / "runs")
        elif page == "README.md":  # what make run leaves
            shutil.copytree(story(FIRST).folder / "runs" / "first", folder / "runs" / "phantom-1")
            radiograph = min((folder / "data" / "ChestX-ray14" / "images").iterdir())
            shutil.copytree(story(BUYER).folder / "audit", folder / "audit")
            shutil.copy(radiograph, folder / "image.png")
            shutil.copy(radiograph, folder / "suspicious.png")
            shutil.copy(str(pydicom.data.get_testdata_file("CT_small.dcm")), folder / "scan.dcm")
        elif page == "docs/detection/repair.md":
            shutil.copy(story(FIRST).folder / "runs" / "first" / CHECKPOINT, folder / "model.safetensors")
            shutil.copy(story(BUYER).folder / "audit" / "audit.json", folder / "audit.json")

    assert (ROOT / FIRST).is_file()
    return story
