"""Every source of ours passes the suite, and the suite finds what broken ones do wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.sources import SOURCES, SourceOpener
from petechia.testing import check_catalog, check_source
from tests.conftest import InMemory, NihMaker
from tests.data.sources import test_dicom, test_medmnist

NIH = [("00000001_000.png", "Edema", "1"), ("00000001_001.png", "No Finding", "1"), ("00000002_000.png", "Mass|Edema", "2")]


def phantom(_root: Path, _make_nih: NihMaker) -> str:
    return "phantom:images=30,size=24"


def nih(_root: Path, make_nih: NihMaker) -> str:
    return f"nih:{make_nih(NIH)}"


def folder(root: Path, _make_nih: NihMaker) -> str:
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)).save(root / f"{i}.png")
    (root / "table.csv").write_text("image,patient,A,B\n0.png,1,1,0\n1.png,1,0,-1\n2.png,2,0,1\n")
    return f"folder:{root / 'table.csv'},colour=true"


def medmnist(root: Path, _make_nih: NihMaker) -> str:
    np.savez(root / "m.npz", **test_medmnist.arrays(test_medmnist.of_classes(2)))  # type: ignore[arg-type]
    return f"medmnist:{root / 'm.npz'}"


def dicom(root: Path, _make_nih: NihMaker) -> str:
    return f"dicom:{test_dicom.folder_of(root / 'scans')}"


def nifti(root: Path, _make_nih: NihMaker) -> str:
    pytest.importorskip("nibabel", reason="needs petechia[nifti]")
    from tests.data.sources import test_nifti  # noqa: PLC0415 (it needs the package)

    test_nifti.save(root / "volumes" / "sub-01.nii.gz", test_nifti.VOLUME)
    return f"nifti:{root / 'volumes'}"


def xrv(root: Path, _make_nih: NihMaker) -> str:
    pytest.importorskip("torchxrayvision")
    from tests.data.sources import test_xrv  # noqa: PLC0415 (it needs the package)

    return test_xrv.chexpert(root)


OURS: dict[str, Callable[[Path, NihMaker], str]] = {
    **{"phantom": phantom, "nih": nih, "folder": folder, "medmnist": medmnist, "dicom": dicom, "nifti": nifti, "xrv": xrv}
}


# `dicomweb:` needs a server: tests/data/sources/test_dicomweb.py
@pytest.mark.parametrize("kind", [kind for kind in SOURCES if SOURCES.origin(kind) == "petechia" and kind != "dicomweb"])
def test_our_sources_pass(kind: str, tmp_path: Path, make_nih: NihMaker) -> None:
    nonsense = "NIH:/no/such" if kind == "xrv" else "images=none" if kind == "phantom" else "/no/such"
    assert len(check_source(OURS[kind](tmp_path, make_nih), nonsense)) >= 2


def sound() -> Catalog:
    """Six random images of three patients."""
    images = list(np.random.default_rng(0).integers(0, 256, (6, 5, 7), np.uint8))
    return Catalog(
        *("made", ("A", "B"), np.array(list("abcdef")), np.array(list("112233"))),
        np.array(["train"] * 4 + ["test"] * 2),
        np.array([[1, 0], [0, -1]] * 3, np.int8),
        InMemory(images),
    )


class Backwards(InMemory):
    """Loses the order of the rows."""

    def take(self, rows: NDArray[np.intp]) -> InMemory:
        return super().take(np.sort(rows))


class Unordered(InMemory):
    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        return super().read(np.sort(rows))


class Forgetful(InMemory):
    """Loses an image."""

    def read(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        return super().read(rows[1:])


class Floating(InMemory):
    def read(self, rows: NDArray[np.intp]) -> Iterator[Any]:
        return (image / 255 for image in super().read(rows))


class Damaged(InMemory):
    def read(self, rows: NDArray[np.intp]) -> Iterator[Any]:
        return (PetechiaError("a.png is damaged.") for _ in rows)


class Alike(InMemory):
    """Has the same fingerprint for all rows."""

    def take(self, rows: NDArray[np.intp]) -> InMemory:
        return Alike(super().take(rows).images)

    def fingerprint(self) -> str:
        return "always"


class Restless(InMemory):
    calls = 0

    def fingerprint(self) -> str:
        Restless.calls += 1
        return str(Restless.calls)


class Shorter(InMemory):
    def __len__(self) -> int:
        return 5


READERS: list[tuple[type[InMemory], str]] = [
    (Backwards, "take.. does not keep the order"),
    (Unordered, "read.. gives images in an order other than that of the rows"),
    (Forgetful, "read.. of 6 rows gives 5 images"),
    (Floating, "read.. gives float64 for a, not uint8"),
    (Damaged, "Image a cannot be read .a.png is damaged"),
    (Alike, "fingerprint.. is the same for other rows"),
    (Restless, "fingerprint.. changes though no image does"),
    (Shorter, "The reader has 5 images, the catalog 6"),
]


@pytest.mark.parametrize(("reader", "sentence"), READERS)
def test_a_broken_reader_is_found(reader: type[InMemory], sentence: str) -> None:
    catalog = sound()
    check_catalog(catalog)
    assert isinstance(catalog.reader, InMemory)
    with pytest.raises(AssertionError, match=sentence):
        check_catalog(replace(catalog, reader=reader(catalog.reader.images)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ids": np.array(list("aacdef"))}, "Two images have the same id"),
        ({"classes": ("A",)}, r"labels has shape \(6, 2\) for 6 images and 1 classes"),
        ({"labels": np.zeros((6, 2))}, "labels is float64, not int8"),
        ({"labels": np.full((6, 2), 2, np.int8)}, "values other than 1, 0 and -1"),
        ({"patients": np.arange(6)}, "patients is int64, not text"),
        ({"patients": np.array(list("112213"))}, "Patient 1 is in more than one part of the split"),
        ({"split": np.array(["training"] * 6)}, "The split has 'training'"),
        ({"split": np.array(["train"] * 5)}, r"split has shape \(5,\) for 6 images"),
        ({"colour": True}, r"Image a has shape \(5, 7\), but colour is True"),
    ],
)
def test_a_broken_catalog_is_found(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_catalog(replace(sound(), **change))


def test_a_broken_opener_is_found() -> None:
    def everything(_source: str, _text: str, _missing: str) -> Catalog:
        return sound()

    def crash(source: str, text: str, missing: str) -> Catalog:
        if text != "x":
            raise KeyError(text)
        return sound()

    def mumble(source: str, text: str, missing: str) -> Catalog:
        if text == "x":
            return sound()
        raise PetechiaError("no")

    def change(source: str, text: str, missing: str) -> Catalog:
        if text != "x":
            raise PetechiaError("It is not there.")
        return sound().take(np.random.default_rng().permutation(6))

    for opened, sentence in (
        (everything, "It opens made:/no/such/file, which is not there"),
        (crash, "it raises KeyError; raise PetechiaError"),
        (mumble, "it says 'no', which is no sentence"),
        (change, "Opened again, made:x has other ids"),
    ):
        opener = SourceOpener("made:X", "Made up", opened)
        with SOURCES.temporarily({"made": opener}), pytest.raises(AssertionError, match=sentence):
            check_source("made:x")
    unhelpful = SourceOpener("made:X", "", everything)
    with SOURCES.temporarily({"made": unhelpful}), pytest.raises(AssertionError, match="has the help ''"):
        check_source("made:x")
    with pytest.raises(AssertionError, match="'made' is not among the registered sources, phantom, nih"):
        check_source("made:x")
    assert len(open_source("phantom:images=3,size=16")) == 3
