"""NIfTI volumes as slices. The truth are arrays made by hand, which nibabel has written, and nibabel's own reading."""

import gzip
import itertools
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import petechia.data.formats.nifti as module
from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.not_read import Reason
from petechia.testing.sources import check_source
from tests.conftest import decoded, problem

nibabel = pytest.importorskip("nibabel", reason="needs petechia[nifti]")

X, Y, Z = 7, 6, 5
VOLUME = np.random.default_rng(0).integers(-1000, 1000, (X, Y, Z)).astype(np.int16)  # [right, front, head]
VOLUME[0, 0, 0], VOLUME[1, 1, 1] = -1000, 1000
SHOWN = (VOLUME + 1000.0) / 2000 * 255
CUTS: dict[str, Callable[[NDArray[Any], int], NDArray[Any]]] = {  # as radiologists look at them
    "axial": lambda v, k: v[::-1, ::-1, k].T,
    "coronal": lambda v, k: v[::-1, k, ::-1].T,
    "sagittal": lambda v, k: v[k, ::-1, ::-1].T,
}
COUNTS = {"axial": Z, "coronal": Y, "sagittal": X}
ORIENTATIONS = ["".join(names) for order in itertools.permutations(("RL", "AP", "SI")) for names in itertools.product(*order)]


def save(path: Path, voxels: NDArray[Any], affine: Any = None, kind: Any = None, **header: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = (kind or nibabel.Nifti1Image)(voxels, np.diag([2, 3, 4, 1]) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def only(folder: Path, options: str = "") -> Catalog:
    return open_source(f"nifti:{folder}{options}")


@pytest.mark.parametrize("axis", CUTS)
def test_every_orientation_is_turned_as_the_header_says(tmp_path: Path, axis: str) -> None:
    upright = nibabel.Nifti1Image(VOLUME, np.diag([2, 3, 4, 1]))
    for number, code in enumerate(ORIENTATIONS):
        way = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(code)
        )
        turned = upright.as_reoriented(way)
        assert "".join(nibabel.aff2axcodes(turned.affine)) == code
        save(tmp_path / f"{code}.nii{'.gz' if number % 2 else ''}", np.asarray(turned.dataobj), turned.affine)
    catalog = only(tmp_path, f",axis={axis}")
    count = COUNTS[axis]
    assert len(catalog) == 48 * count
    images = decoded(catalog, *range(len(catalog)))
    for row, image in enumerate(images):
        assert np.abs(image - CUTS[axis](SHOWN, row % count)).max() <= 0.51, catalog.ids[row]
    assert catalog.notes == ()


def test_ids_patients_and_a_choice_of_slices(tmp_path: Path) -> None:
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii", "sub-01/anat/sub-01_T2w.nii.gz"):
        save(tmp_path / name, VOLUME)
    catalog = only(tmp_path)
    assert catalog.ids[0] == "sub-01/anat/sub-01_T1w.nii.gz#axial-1"
    assert sorted(np.unique(catalog.patients, return_counts=True)[1].tolist()) == [Z, 2 * Z]  # T1w and T2w are of one patient
    middle = only(tmp_path, ",slices=middle,axis=sagittal")
    assert [one.rpartition("#")[2] for one in middle.ids.tolist()] == ["sagittal-4"] * 3
    assert np.abs(decoded(middle, 0)[0] - CUTS["sagittal"](SHOWN, 3)).max() <= 0.51
    assert middle.notes[-1] == "3 of 21 slices are read, as slices=middle says; the others are not looked at."
    check_source(f"nifti:{tmp_path}")


def test_the_sform_comes_before_the_qform_and_without_both_a_note_says_so(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, None)
    image.set_qform(np.diag([-1, 1, 1, 1]), 1)
    image.set_sform(np.diag([1, -1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "both.nii")
    flipped = VOLUME[:, ::-1]
    assert np.abs(decoded(only(tmp_path), 1)[0] - CUTS["axial"]((flipped + 1000.0) / 2000 * 255, 1)).max() <= 0.51
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "both.nii")
    flipped = VOLUME[::-1]
    assert np.abs(decoded(only(tmp_path), 1)[0] - CUTS["axial"]((flipped + 1000.0) / 2000 * 255, 1)).max() <= 0.51
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "both.nii")
    (note,) = only(tmp_path).notes
    assert "do not say how their axes lie; they are read as if these grew to the left, the front and the head: both.nii" in note
    assert np.abs(decoded(only(tmp_path), 1)[0] - CUTS["axial"]((flipped + 1000.0) / 2000 * 255, 1)).max() <= 0.51


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", ">f4", "<f4", "<f8", "<i8"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
def test_types_and_byte_orders(tmp_path: Path, dtype: str, packed: str, kind: str) -> None:
    voxels = (np.arange(X * Y * Z).reshape(X, Y, Z) % 101).astype(dtype)
    image = getattr(nibabel, kind)(voxels, np.eye(4), dtype=voxels.dtype)
    if dtype.startswith(">"):
        image.header.set_data_dtype(np.dtype(dtype))
        image = getattr(nibabel, kind)(voxels, np.eye(4), image.header.as_byteswapped(">"))
    nibabel.save(image, tmp_path / f"a.nii{packed}")
    reread = np.asarray(nibabel.load(tmp_path / f"a.nii{packed}").dataobj, float)
    for k, found in enumerate(decoded(only(tmp_path), *range(Z))):
        assert np.abs(found - CUTS["axial"](reread, k) / 100 * 255).max() <= 0.51


def test_scaling_windows_and_ranges(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header.set_slope_inter(2, 100)
    nibabel.save(image, tmp_path / "a.nii.gz")
    values = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj, float)  # nibabel scales
    assert values.max() > VOLUME.max() or values.min() != VOLUME.min()
    low, high = values.min(), values.max()
    assert np.abs(decoded(only(tmp_path), 2)[0] - CUTS["axial"]((values - low) / (high - low) * 255, 2)).max() <= 0.51
    window = np.clip((values + 160) / 400, 0, 1) * 255
    assert np.abs(decoded(only(tmp_path, ",range=-160:240"), 2)[0] - CUTS["axial"](window, 2)).max() <= 0.51
    save(tmp_path / "a.nii.gz", VOLUME, cal_min=0, cal_max=500)
    stated = np.clip(VOLUME / 500.0, 0, 1) * 255
    assert np.abs(decoded(only(tmp_path), 2)[0] - CUTS["axial"](stated, 2)).max() <= 0.51
    before = only(tmp_path).reader.fingerprint()
    assert only(tmp_path, ",range=1:2").reader.fingerprint() != before
    for wrong in ("", "5", "5:4", "5:5", "a:b", "nan:3", "0:inf", "1e38:1e39", "1:2:3", ".:1"):
        with pytest.raises(PetechiaError, match="'range' in the data source"):
            only(tmp_path, f",range={wrong}")


def test_what_a_range_cuts_off_can_still_be_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", VOLUME)
    reader = only(tmp_path, ",range=-10:10").reader
    (found,) = reader.read_uncut(np.array([0]))  # type: ignore[attr-defined]
    cut = CUTS["axial"](VOLUME, 0)
    assert found.dtype == np.int16
    assert (np.diff(found.reshape(-1)[np.argsort(cut, axis=None)]) >= 0).all()
    assert len(np.unique(found[cut > 10])) > 5


def test_what_is_not_a_number_is_black_and_sets_no_range(tmp_path: Path) -> None:
    voxels = np.linspace(0, 100, X * Y * Z, dtype=np.float32).reshape(X, Y, Z)
    voxels[3, 3, 2], voxels[2, 2, 2], voxels[1, 1, 2] = np.nan, np.inf, -np.inf
    save(tmp_path / "a.nii", voxels)
    (found,) = decoded(only(tmp_path), 2)
    expected = CUTS["axial"](np.nan_to_num(voxels, nan=0, posinf=1e30, neginf=-1e30).clip(0, 100) / 100 * 255, 2)
    assert np.abs(found - expected).max() <= 0.51
    save(tmp_path / "a.nii", np.full((4, 4, 3), np.nan, np.float32))
    assert (decoded(only(tmp_path), 0, 2) == 0).all()
    save(tmp_path / "a.nii", np.full((4, 4, 3), 7, np.uint8))  # one level
    assert len(np.unique(decoded(only(tmp_path), 0))) == 1


def test_of_several_volumes_the_first_is_read_and_a_note_says_so(tmp_path: Path) -> None:
    save(tmp_path / "bold.nii.gz", np.stack([VOLUME, VOLUME[::-1], -VOLUME], axis=3))
    save(tmp_path / "one.nii.gz", VOLUME[..., None])
    save(tmp_path / "flat.nii.gz", VOLUME[:, :, 0])
    catalog = only(tmp_path)
    assert len(catalog) == Z + 1 + Z
    assert np.abs(decoded(catalog, 1)[0] - CUTS["axial"](SHOWN, 1)).max() <= 0.51
    assert "1 NIfTI files have several volumes" in catalog.notes[0]
    assert "bold.nii.gz" in catalog.notes[0]


def test_a_table_names_volumes(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "scans" / f"v{number}.nii.gz", VOLUME)
    save(tmp_path / "scans" / "other.nii", VOLUME)
    (tmp_path / "scans" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    table = tmp_path / "t.csv"
    table.write_text("file,patient,split,Mass\nv0,p,train,1\nv1.nii.gz,p,train,0\nv2,q,test,1\nv3,r,train,\n")
    catalog = only(tmp_path / "scans", f",table={table},slices=every=2")
    assert len(catalog) == 4 * 3
    assert catalog.labels[:, 0].tolist() == [1] * 3 + [0] * 3 + [1] * 3 + [-1] * 3
    assert catalog.patients.tolist() == ["p"] * 6 + ["q"] * 3 + ["r"] * 3
    assert catalog.split.tolist() == ["train"] * 6 + ["test"] * 3 + ["train"] * 3
    assert {one.reason: one.names for one in catalog.not_read.reasons} == {
        Reason.NO_NIFTI: ("a.png",),
        Reason.UNLISTED: ("other.nii",),
    }
    with pytest.raises(PetechiaError, match="has 5 axial slices, too few for slices=9; change slices="):
        only(tmp_path / "scans", f",table={table},slices=9")
    table.write_text("file,Mass\nv0,1\nv9,0\n")
    with pytest.raises(PetechiaError, match="v9"):
        only(tmp_path / "scans", f",table={table}")
    assert len(open_source(f"nifti:{tmp_path / 'scans'},table={table}", "skip")) == Z


def test_masks_are_left_out_and_named(tmp_path: Path) -> None:
    masks = ("b/B_seg.nii.gz", "labelsTr/l1.nii.gz", "a_mask.nii.gz", "masks/m.nii")
    for name in ("a.nii.gz", "b/B_t1.nii.gz", "imagesTr/l1_0000.nii.gz", "images/m.nii", *masks):
        save(tmp_path / name, VOLUME)
    catalog = only(tmp_path)
    assert len(catalog) == 4 * Z
    assert {one.reason: set(one.names) for one in catalog.not_read.reasons} == {Reason.MASK: set(masks)}


def test_a_pipe_with_the_name_of_a_volume_is_named_and_not_opened(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", VOLUME)
    os.mkfifo(tmp_path / "b.nii.gz")
    catalog = only(tmp_path)
    assert len(catalog) == Z
    assert [(one.reason, one.names) for one in catalog.not_read.reasons] == [(Reason.PIPE, ("b.nii.gz",))]


def test_a_choice_that_a_volume_has_not_is_named(tmp_path: Path) -> None:
    save(tmp_path / "thin.nii", VOLUME[:, :, :2])
    save(tmp_path / "thick.nii", VOLUME)
    catalog = only(tmp_path, ",slices=4")
    assert catalog.ids.tolist() == ["thick.nii#axial-4"]
    assert {one.reason: one.names for one in catalog.not_read.reasons} == {Reason.SLICES: ("thin.nii",)}
    with pytest.raises(PetechiaError, match="No slice is left: .* too few for slices=9"):
        only(tmp_path, ",slices=9")


def patched(path: Path, at: int, form: str, *values: Any) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, *values)
    path.write_bytes(content)


def flipped(path: Path) -> None:
    """Change a voxel in a file of gzip; only the checksum tells."""
    content = bytearray(gzip.compress(path.read_bytes(), 0, mtime=0))
    content[-20] ^= 1
    path.write_bytes(content)


def dims(*sides: int) -> Callable[[Path], None]:
    return lambda path: patched(path, 40, "<8h", len(sides), *sides, *[1] * (7 - len(sides)))


def of_type(code: int, bits: int) -> Callable[[Path], None]:
    return lambda path: patched(path, 70, "<2h", code, bits)


def bomb(path: Path) -> None:
    save(path, np.zeros((600, 600, 600), np.uint8))
    path.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dims(7, 0, 5), "claims a volume of 7 x 0 x 5 voxels"),
        (dims(7, -6, 5), "claims a volume of 7 x -6 x 5 voxels"),
        (dims(32000, 32000, 3000), "claims 6,144,000,000,352 bytes, and the maximum is 2,147,483,648"),
        (dims(2, 2, 32000), "claims 32,000 slices, and the maximum is 20,000"),
        (dims(7, 6, 50), "has 772 bytes, but its header claims 4,552"),
        (dims(7, 6, 5, 1, 3), "several numbers a voxel"),
        (of_type(128, 24), "has colours as voxels, which are not read"),
        (of_type(32, 64), "has complex numbers as voxels"),
        (of_type(1536, 128), "has an unusual type of numbers as voxels"),
        (of_type(999, 8), "header that cannot be read"),
        (lambda path: patched(path, 108, "<f", float("nan")), "claims that its voxels begin at byte nan"),
        (lambda path: patched(path, 108, "<f", 1e30), "claims that its voxels begin at byte 1e+30"),
        (lambda path: patched(path, 108, "<f", -5.0), "claims that its voxels begin at byte -5"),
        (lambda path: patched(path, 280, "<4f", *[float("nan")] * 4), "does not say how its axes lie"),
        (lambda path: patched(path, 280, "<12f", *[0.0] * 12), "does not say how its axes lie"),
        (lambda path: patched(path, 344, "4s", b"ni1\0"), "is one half of a pair of .hdr and .img, which is not read"),
        (lambda path: patched(path, 344, "4s", b"abc\0"), "is not a NIfTI file"),
        (lambda path: patched(path, 116, "<f", float("inf")), "header that cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is not a NIfTI file"),
        (lambda path: path.write_bytes(b""), "is not a NIfTI file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 771 bytes, but its header claims 772"),
        (
            lambda path: path.write_bytes(gzip.compress(path.read_bytes(), mtime=0)[:-30]),
            "is damaged|ends before its last voxel",
        ),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes()[:-1], mtime=0)), "ends before its last voxel"),
        (
            lambda path: path.write_bytes(gzip.compress(path.read_bytes(), mtime=0)[:40] + bytes(300)),
            "cannot be read|is damaged",
        ),
        (flipped, "is damaged (CRC check failed"),
        (lambda path: path.write_bytes(gzip.compress(path.read_bytes(), mtime=0)[:-8]), "is damaged"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(500)), "header that cannot be read"),
        (bomb, "claims 216,000,352 bytes, a multiple of its size"),
    ],
)
def test_bad_files_say_what_is_wrong_and_the_others_are_read(tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    save(tmp_path / "good.nii", VOLUME)
    change(save(tmp_path / "bad.nii", VOLUME))
    catalog = only(tmp_path)
    assert "bad.nii" in problem(catalog)
    assert any(one in problem(catalog) for one in said.split("|")), problem(catalog)
    assert np.abs(decoded(catalog, len(catalog) - 1)[0] - CUTS["axial"](SHOWN, Z - 1)).max() <= 0.51


def test_extensions_of_any_claimed_size_are_skipped(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOLUME, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / "a.nii")
    patched(tmp_path / "a.nii", 352, "<i", 2**31 - 1)
    assert np.abs(decoded(only(tmp_path), 3)[0] - CUTS["axial"](SHOWN, 3)).max() <= 0.51


def test_a_packed_volume_is_unpacked_once_for_all_its_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.nii.gz", VOLUME)
    catalog, count, read = only(tmp_path), [0], module._stored

    def counted(*given: Any) -> Any:
        count[0] += 1
        return read(*given)

    monkeypatch.setattr(module, "_stored", counted)
    decoded(catalog, *range(Z))
    decoded(catalog.take(np.array([2, 0])), 0, 1)
    assert count == [1]


def test_limits_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.nii", VOLUME)
    monkeypatch.setenv("PETECHIA_LIMITS", "volume_bytes=500")
    budget.cache_clear()
    try:
        assert "claims 772 bytes, and the maximum is 500" in problem(only(tmp_path))
    finally:
        monkeypatch.undo()
        budget.cache_clear()


def test_without_nibabel_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.nii", VOLUME)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(PetechiaError, match=r"nifti: sources need nibabel; install it with pip install 'petechia\[nifti\]'"):
        only(tmp_path)


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.mha").write_text("x")
    with pytest.raises(
        PetechiaError, match="has no .nii or .nii.gz file; give a folder of NIfTI files. Not looked at: 1 image"
    ):
        only(tmp_path / "empty")
    with pytest.raises(PetechiaError, match="'labels' in the data source .* is about a table"):
        only(save(tmp_path / "b" / "a.nii", VOLUME).parent, ",labels=x")
    with pytest.raises(PetechiaError, match="which is not a folder; correct the path .'slice' is not an option; did you mean"):
        only(tmp_path / "b", ",slice=3")
    (tmp_path / "b" / "link.nii").symlink_to("/etc/passwd")
    assert {one.reason for one in only(tmp_path / "b").not_read.reasons} == {Reason.LINK}
