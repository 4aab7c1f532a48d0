from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import BasicTextSRStorage

from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.data.not_read import Reason
from petechia.detect.collection import Collection, collect, read_collection
from petechia.detect.repair.clean import read_clean
from tests.conftest import unasked
from tests.data.formats.test_dicom import made, written


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder from a Mac with four images, and more that is not read."""
    root = tmp_path / "clean"
    (root / "sub").mkdir(parents=True)
    for n, name in enumerate(("a.png", "b.jpg", "sub/c.PNG", "sub/d")):
        Image.fromarray(np.full((8, 8), 40 * n, np.uint8)).save(root / name, "JPEG" if name.endswith("jpg") else "PNG")
    (root / ".DS_Store").write_bytes(b"Bud1")
    (root / "._a.png").write_bytes(b"\0\5\x16\7")
    (root / "Thumbs.db").write_bytes(b"\xd0\xcf")
    Image.new("L", (8, 8)).save(root / "a_mask.png")
    Image.new("L", (8, 8)).save(root / "e.bmp")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    report = made(np.zeros((4, 4), np.uint8), SOPClassUID=BasicTextSRStorage)
    del report.Rows, report.PixelData
    (root / "report.dcm").write_bytes(written(report))
    (root / "cine.dcm").write_bytes(written(made(np.zeros((3, 4, 4), np.uint8), NumberOfFrames="3")))
    return root


def told(found: Collection) -> dict[Reason, tuple[str, ...]]:
    return {one.reason: one.names for one in found.not_read.reasons}


def test_a_folder_is_read_and_what_is_not_is_named(folder: Path) -> None:
    found = read_collection([str(folder)], unasked("A"))
    assert found.ids == tuple(str(folder / name) for name in ("a.png", "b.jpg", "sub/c.PNG", "sub/d"))
    assert found.images[:, 0, 0].tolist() == [0, 40, 80, 120]
    assert len(found.images) == len(found.shapes) == 4
    assert told(found) == {
        Reason.FORMAT: (str(folder / "e.bmp"),),
        Reason.FRAMES: (str(folder / "cine.dcm"),),
        Reason.DAMAGED: (str(folder / "broken.png"),),
        Reason.MASK: (str(folder / "a_mask.png"),),
        Reason.NO_PIXELS: (str(folder / "report.dcm"),),
    }
    assert read_clean(folder, unasked("A")).not_read == found.not_read


def test_an_image_that_was_named_itself_must_be_read(folder: Path) -> None:
    for name in ("broken.png", "e.bmp", "report.dcm"):
        with pytest.raises(PetechiaError, match=name):
            read_collection([str(folder / name), str(folder)], unasked("A"))
    assert read_collection([str(folder / "a_mask.png")], unasked("A")).ids == (str(folder / "a_mask.png"),)


def test_a_folder_without_a_readable_image_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(b"BM")
    with pytest.raises(PetechiaError, match=r"There is no PNG.*image format that is not read: 1 \("):
        read_collection([str(tmp_path)], unasked("A"))
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(PetechiaError, match="None of the 1 images can be read; the first problem: .*a.png"):
        read_collection([str(tmp_path)], unasked("A"))


def test_links_of_the_own_folder_are_followed_to_files(folder: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "elsewhere.png")
    (folder / "x.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "y.png").symlink_to("gone")
    (folder / "more").symlink_to(tmp_path)
    found = read_collection([str(folder)], unasked("A"))
    assert found.images.max() == 255
    assert told(found)[Reason.LINK] == (str(folder / "more"), str(folder / "y.png"))


def test_a_catalog_keeps_labels_with_their_images(folder: Path) -> None:
    (folder / "t.csv").write_text("image,Mass\na.png,1\nbroken.png,0\nb.jpg,1\nsub/c.PNG,0\n")
    found = collect(open_source(f"folder:{folder / 't.csv'}"), unasked("A"))
    assert found.ids == ("a.png", "b.jpg", "sub/c.PNG")
    assert found.labels is not None
    assert found.labels[0].tolist() == [[1], [1], [0]]
    assert told(found)[Reason.DAMAGED] == ("broken.png",)
    assert told(found)[Reason.UNLISTED] == ("a_mask.png", "cine.dcm", "report.dcm", "sub/d")
