"""One small attacked network, and one small dataset in NIH's layout, for all pages."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom.data
import pytest

import petechia
from tests.docs.pages import ROOT
from tests.docs.story import Story, tell

FIRST = "docs/tutorials/index.md"  # makes runs/first, which the other tutorials go on from
BUYER = "docs/tutorials/buyer.md"
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
def stories(tmp_path_factory: pytest.TempPathFactory, radiographs: Path) -> Stories:
    """The result of a page. The page is run at the first request."""
    told: dict[str, Story] = {}

    def story(page: str) -> Story:
        if page not in told:
            folder = tmp_path_factory.mktemp(Path(page).stem)
            shutil.copytree(radiographs, folder / "data" / "ChestX-ray14")
            furnish(page, folder)
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
