import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data.formats.walking import beside, find_images, masks_among, walk
from petechia.data.not_read import Files, Reason
from tests.data.formats.test_dicom import made, written

PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


def put(root: Path, path: str, content: bytes = b"") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def found_in(root: Path, masks: bool = True) -> tuple[list[str], dict[Reason, tuple[str, ...]]]:
    files = Files()
    paths = list(find_images(root, files, masks))
    return paths, {one.reason: one.names for one in files.frozen.reasons}


def test_what_systems_leave_is_skipped_without_a_word(tmp_path: Path) -> None:
    put(tmp_path, "a.png", encoded("PNG"))
    debris = (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", "__MACOSX/a.png", ".git/index")
    for path in (*debris, "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", ".ipynb_checkpoints/a-checkpoint.png", "$RECYCLE.BIN/x.png"):
        put(tmp_path, path, b"\0\5\x16\7\0\2\0\0Mac OS X")
    put(tmp_path, "notes.txt", b"no image")
    put(tmp_path, "labels.csv", b"image\na.png\n")
    assert found_in(tmp_path) == (["a.png"], {})


def test_images_that_hide_are_named(tmp_path: Path) -> None:
    """Training code that lists a folder reads them."""
    put(tmp_path, "a.png", encoded("PNG"))
    put(tmp_path, "._b.png", encoded("PNG"))
    put(tmp_path, ".c", encoded("JPEG"))
    put(tmp_path, ".more/d.png", encoded("PNG"))
    put(tmp_path, ".bashrc", b"alias")
    assert found_in(tmp_path) == (["a.png"], {Reason.HIDDEN: ("._b.png", ".c", ".more/d.png")})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.bmp", encoded("BMP"), Reason.FORMAT),
        ("a.gif", encoded("GIF"), Reason.FORMAT),
        ("a.webp", encoded("WEBP"), Reason.FORMAT),
        ("a.pgm", encoded("PPM"), Reason.FORMAT),
        ("a.jp2", encoded("JPEG2000"), Reason.FORMAT),
        ("a", encoded("BMP"), Reason.FORMAT),
        ("a.v2", encoded("WEBP"), Reason.FORMAT),
        ("1.2.840.17", encoded("JPEG2000"), Reason.FORMAT),
        ("a.heic", b"\0\0\0\x18ftypheic", Reason.FORMAT),
        ("a.nii", b"\x5c\x01\0\0" + bytes(340) + b"n+1\0", Reason.VOLUME),
        ("a", b"\x5c\x01\0\0" + bytes(340) + b"n+1\0", Reason.VOLUME),
        ("a.nii.gz", gzip.compress(b"x", mtime=0), Reason.VOLUME),
        ("a.NRRD", b"NRRD0004\n", Reason.VOLUME),
        ("a.mha", b"ObjectType = Image\n", Reason.VOLUME),
        ("a.dcm.gz", gzip.compress(b"x", mtime=0), Reason.PACKED),
        ("a.png.gz", gzip.compress(b"x", mtime=0), Reason.PACKED),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), Reason.PACKED),
        ("a.zip", b"PK\3\4", Reason.PACKED),
        ("a.npy", b"\x93NUMPY", Reason.ARRAY),
        ("a.avi", b"RIFF\0\0\0\0AVI ", Reason.VIDEO),
    ],
)
def test_other_images_are_named_by_suffix_or_content(tmp_path: Path, name: str, content: bytes, reason: Reason) -> None:
    put(tmp_path, f"sub/{name}", content)
    assert found_in(tmp_path) == ([], {reason: (f"sub/{name}",)})


@pytest.mark.parametrize("name", ["a", "a.PNG", "IM_0001", "1.2.840.113619.2.55", "a.jfif", "a.ima", "a.bmp"])
def test_images_are_known_by_content_where_the_suffix_says_nothing(tmp_path: Path, name: str) -> None:
    for number, content in enumerate((encoded("PNG"), encoded("JPEG"), encoded("TIFF"), written(made(PIXELS)), bare())):
        put(tmp_path, f"{number}/{name}", content)
    assert found_in(tmp_path) == ([f"{number}/{name}" for number in range(5)], {})


def bare() -> bytes:
    """A DICOM file without preamble and meta group."""
    content = written(made(PIXELS))
    (length,) = np.frombuffer(content[140:144], "<u4")
    return content[144 + length :]


@pytest.mark.parametrize("name", ["labels.csv", "a.csv.gz", "README", "run.sh", "model.pt", "x.json", "LICENSE.txt", "list"])
def test_what_is_no_image_is_not_counted(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, b"some words that are no image, and enough of them to fill the beginning of a file" * 20)
    assert found_in(tmp_path) == ([], {})


def test_links_out_are_named_and_never_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    put(outside, "secret.png", encoded("PNG"))
    put(root, "a.png", encoded("PNG"))
    (root / "b.png").symlink_to(root / "a.png")
    (root / "out.png").symlink_to(outside / "secret.png")
    (root / "nowhere.png").symlink_to("gone")
    (root / "self.png").symlink_to("self.png")
    (root / "more").symlink_to(outside)
    (root / "loop").symlink_to(".")
    assert found_in(root) == (["a.png", "b.png"], {Reason.LINK: ("more", "nowhere.png", "out.png", "self.png")})
    with pytest.raises(PetechiaError, match="is a link that leads out"):
        list(walk(root))  # for names that a table looks up


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may open everything")
def test_folders_that_may_not_be_opened_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png", encoded("PNG"))
    put(tmp_path, "locked/b.png", encoded("PNG"))
    (tmp_path / "locked").chmod(0)
    try:
        assert found_in(tmp_path) == (["a.png"], {Reason.UNREADABLE: ("locked",)})
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_unreadable_folders_are_named_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", encoded("PNG"))
    put(tmp_path, "locked/b.png", encoded("PNG"))
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found_in(tmp_path) == (["a.png"], {Reason.UNREADABLE: ("locked",)})


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    put(tmp_path, "a.png", encoded("PNG"))
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    assert found_in(tmp_path) == (["a.png"], {Reason.PIPE: ("pipe.png",)})


def test_masks_are_known_by_the_image_that_they_belong_to() -> None:
    busi = {"benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png", "lonely_mask.png", "unmask.png"}
    covid = {"COVID/images/COVID-1.png", "COVID/masks/COVID-1.png", "COVID/masks/other.png"}
    isic = {"x/ISIC_1.jpg", "x/ISIC_1_segmentation.png", "y/ISIC_1_segmentation.png"}
    assert masks_among(busi | covid | isic) == {
        "benign (1)_mask.png",
        "benign (1)_mask_1.png",
        "COVID/masks/COVID-1.png",
        "x/ISIC_1_segmentation.png",
    }


@pytest.mark.parametrize(
    "mask",
    [
        "s/C/lung masks/x.png",
        "s/C/Ground_Truth/x_gt.png",
        "s/masks/C/images/x.tif",
        "masks/s/C/images/mask_x.png",
        "s/C/images/gt/x.png",
    ],
)
def test_folders_of_masks_are_known_by_their_last_word(mask: str) -> None:
    assert masks_among({"s/C/images/x.png", mask, "s/D/lung masks/x.png"}) == {mask}


def test_masks_are_left_out_where_no_table_names_them(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png"):
        put(tmp_path, name, encoded("PNG"))
    assert found_in(tmp_path, masks=False) == (["a.png"], {Reason.MASK: ("a_mask.png",)})
    assert found_in(tmp_path, masks=True) == (["a.png", "a_mask.png"], {})


def test_what_lies_beside_the_images_of_a_table(tmp_path: Path) -> None:
    for path in ("x/a.png", "x/b.png", "y/a.png", "y/c.dcm", "z.bmp"):
        put(tmp_path, path, encoded("PNG") if path.endswith("png") else b"BM")
    others = beside(tmp_path, np.array(["x/a.png"]), np.array(["top/folder/y/c", "b"]))
    assert {one.reason: one.names for one in others.reasons} == {
        Reason.FORMAT: ("z.bmp",),
        Reason.UNLISTED: ("y/a.png",),
    }


def test_folders_can_be_nested_deeply(tmp_path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(1500):
            Path("a").mkdir()
            os.chdir("a")
        Path("x.png").touch()
        paths, others = found_in(tmp_path)
        Path("x.png").unlink()
        for _ in range(1500):  # what would remove the whole folder cannot go so deep
            os.chdir("..")
            Path("a").rmdir()
    finally:
        os.fchdir(here)
        os.close(here)
    assert paths == [f"{'a/' * 1500}x.png"]
    assert others == {}


def test_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png", encoded("PNG"))
    try:
        put(tmp_path, "b\udcff.png", encoded("PNG"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert found_in(tmp_path) == (["a.png"], {Reason.NAME: ("b�.png",)})
