"""Frames and series of DICOM files as slices. The truth are arrays made by hand, and pydicom's own decoding."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    RLELossless,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
)

from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.formats.images import FileReader, encode_jpeg
from petechia.data.not_read import Reason
from petechia.testing.sources import check_source
from tests.conftest import decoded, problem
from tests.data.formats.test_dicom import made, written

X, Y, Z = 7, 8, 5
VOLUME = np.random.default_rng(0).integers(0, 2000, (X, Y, Z)).astype(np.int16)  # [right, front, head]
WINDOW = {"WindowCenter": "1000", "WindowWidth": "2001"}
SHOWN = np.clip((VOLUME + 0.5) / 2000, 0, 1) * 255
# Rows, columns and the positions of slices, in DICOM's coordinates (left, back, head), of images as they are displayed.
PLANES: dict[str, tuple[list[int], Callable[[int], list[int]], Callable[[Any, int], Any], int]] = {
    "axial": ([1, 0, 0, 0, 1, 0], lambda k: [-(X - 1), -(Y - 1), k], lambda v, k: v[::-1, ::-1, k].T, Z),
    "coronal": ([1, 0, 0, 0, 0, -1], lambda k: [-(X - 1), -k, Z - 1], lambda v, k: v[::-1, k, ::-1].T, Y),
    "sagittal": ([0, 1, 0, 0, 0, -1], lambda k: [-k, -(Y - 1), Z - 1], lambda v, k: v[k, ::-1, ::-1].T, X),
}


def placed(axis: str, k: int) -> dict[str, Any]:
    orientation, position, _, _ = PLANES[axis]
    return {"ImageOrientationPatient": orientation, "ImagePositionPatient": position(k), "PixelSpacing": [1, 1]}


def write_series(root: Path, axis: str, uid: str = "1.2.3", **entries: Any) -> Path:
    """A series whose file names and instance numbers are in another order than its slices."""
    root.mkdir(parents=True, exist_ok=True)
    _, _, cut, count = PLANES[axis]
    for k in range(count):
        pixels = np.ascontiguousarray(cut(VOLUME, k))
        number = str((k * 3) % count + 1)
        given = {"SeriesInstanceUID": uid, "SOPInstanceUID": f"{uid}.{k + 1}", "InstanceNumber": number, "PatientID": "SECRET"}
        dataset = made(pixels, **WINDOW, **given, **placed(axis, k), **entries)
        (root / f"{uid}-{number}.dcm").write_bytes(written(dataset))
    return root


def frames_of(pixels: NDArray[Any], **entries: Any) -> pydicom.Dataset:
    """A file of N frames, [N, H, W] or [N, H, W, 3]."""
    dataset = made(pixels[0], NumberOfFrames=str(len(pixels)), **entries)
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    return dataset


def enhanced(order: list[int]) -> pydicom.Dataset:
    """An enhanced MR file whose frames are in some order, each with a window, a rescaling and a position of its own."""
    _, _, cut, _ = PLANES["axial"]
    dataset = frames_of(np.stack([cut(VOLUME, k) for k in order]), SOPClassUID=EnhancedMRImageStorage)
    shared, orientation = pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = PLANES["axial"][0]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for k in order:
        group, place, window, scale, measures = (pydicom.Dataset() for _ in range(5))
        place.ImagePositionPatient = PLANES["axial"][1](k)
        window.WindowCenter, window.WindowWidth = str(1000 * (k + 1)), str(500 * (k + 1))
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = str(k + 1), "-10", "US"
        measures.PixelSpacing = [1, 1]
        group.PlanePositionSequence, group.FrameVOILUTSequence = [place], [window]
        group.PixelValueTransformationSequence, group.PixelMeasuresSequence = [scale], [measures]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    return dataset


def opened(folder: Path, options: str = "", **files: bytes) -> Catalog:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.dcm").write_bytes(content)
    return open_source(f"dicom:{folder}{options}")


@pytest.mark.parametrize("acquired", PLANES)
@pytest.mark.parametrize("axis", PLANES)
def test_a_series_is_cut_in_every_plane(tmp_path: Path, acquired: str, axis: str) -> None:
    catalog = open_source(f"dicom:{write_series(tmp_path / 's', acquired)},axis={axis}")
    _, _, cut, count = PLANES[axis]
    assert len(catalog) == count
    for k, image in enumerate(decoded(catalog, *range(count))):
        assert np.abs(image - cut(SHOWN, k)).max() <= 0.51
    assert len(set(catalog.patients)) == len(set(catalog.split)) == 1
    assert isinstance(catalog.reader, FileReader) == (acquired == axis)  # files are read as they are
    assert "SECRET" not in str(catalog.ids)


def test_slices_are_counted_along_the_normal(tmp_path: Path) -> None:
    root = write_series(tmp_path / "s", "axial")
    catalog = open_source(f"dicom:{root},slices=2-3")
    for k, image in zip((1, 2), decoded(catalog, 0, 1), strict=True):
        assert np.abs(image - PLANES["axial"][2](SHOWN, k)).max() <= 0.51
    assert catalog.notes == ("2 of 5 slices are read, as slices=2-3 says; the others are not looked at.",)
    for path in root.iterdir():  # without positions, the instance number is what there is
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        path.write_bytes(written(dataset))
    assert open_source(f"dicom:{root},slices=2").ids.tolist() == ["1.2.3-2.dcm"]
    with pytest.raises(PetechiaError, match="does not say where its images lie in the patient; change slices= or axis="):
        open_source(f"dicom:{root},axis=coronal")


def test_a_series_that_is_no_volume_is_left_out_and_named(tmp_path: Path) -> None:
    write_series(tmp_path / "a", "axial")
    write_series(tmp_path / "b", "axial", "1.2.4")
    moved = sorted((tmp_path / "b").iterdir())[2]
    dataset = pydicom.dcmread(moved)
    dataset.ImagePositionPatient = [-(X - 1), -(Y - 1), 40]
    moved.write_bytes(written(dataset))
    catalog = open_source(f"dicom:{tmp_path},axis=sagittal")
    assert len(catalog) == X
    (left_out,) = catalog.not_read.reasons
    assert (left_out.reason, left_out.count) == (Reason.SLICES, Z)
    with pytest.raises(PetechiaError, match="No slice is left; the volume of .* has 5 slices, too few for slices=9"):
        open_source(f"dicom:{tmp_path},slices=9")
    with pytest.raises(PetechiaError, match="distances of its slices are not equal"):
        open_source(f"dicom:{tmp_path / 'b'},axis=coronal")


def test_a_table_may_name_series_folders_and_files_with_frames(tmp_path: Path) -> None:
    root = tmp_path / "d"
    write_series(root / "one", "axial", "1.2.1")
    write_series(root / "two", "coronal", "1.2.2")
    (root / "cine.dcm").write_bytes(written(frames_of(np.zeros((4, 5, 6), np.uint8), PatientID="C")))
    table = tmp_path / "t.csv"
    table.write_text("image,Mass\n1.2.1,1\ntwo,0\ncine.dcm,1\n")
    catalog = open_source(f"dicom:{root},table={table}")
    assert len(catalog) == Z + Y + 4
    assert catalog.labels[:, 0].tolist() == [1] * Z + [0] * Y + [1] * 4
    assert open_source(f"dicom:{root},table={table},slices=middle").labels[:, 0].tolist() == [1, 0, 1]
    with pytest.raises(PetechiaError, match=r"cine.dcm in .* cannot be read as asked: it does not say where"):
        open_source(f"dicom:{root},table={table},axis=axial")
    table.write_text("image,Mass\n1.2.1,1\none/1.2.1-2.dcm,0\n")
    with pytest.raises(PetechiaError, match="names an image of .* in two ways"):
        open_source(f"dicom:{root},table={table}")
    names = sorted(path.name for path in (root / "one").iterdir())
    table.write_text("image,Mass\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)))
    assert len(open_source(f"dicom:{root},table={table}")) == Z  # slices may have labels of their own
    with pytest.raises(PetechiaError, match=r"have different labels in .*t\.csv, so a slice across them has none"):
        open_source(f"dicom:{root},table={table},axis=sagittal")


def test_slices_without_patient_and_study_stay_together(tmp_path: Path) -> None:
    write_series(tmp_path / "a", "axial", "1.2.1")
    write_series(tmp_path / "b", "axial", "1.2.2")
    for path in tmp_path.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "ANONYMOUS"
        path.write_bytes(written(dataset))
    catalog = open_source(f"dicom:{tmp_path}")
    assert sorted(np.unique(catalog.patients, return_counts=True)[1].tolist()) == [Z, Z]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 1, 2]])
def test_an_enhanced_file(tmp_path: Path, order: list[int]) -> None:
    catalog = opened(tmp_path / "d", mr=written(enhanced(order)))
    assert catalog.ids.tolist() == [f"mr.dcm#{order.index(k) + 1}" for k in range(Z)]  # from the feet to the head
    for k, image in enumerate(decoded(catalog, *range(Z))):
        values = VOLUME[::-1, ::-1, k].T * (k + 1) - 10.0
        centre, width = 1000 * (k + 1), 500 * (k + 1)
        expected = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255  # PS3.3, C.11.2.1.2
        assert np.abs(image - expected).max() <= 0.51
    assert len(set(catalog.patients)) == 1
    check_source(f"dicom:{tmp_path / 'd'}")


def test_an_enhanced_file_is_cut_in_another_plane(tmp_path: Path) -> None:
    dataset = enhanced([4, 2, 0, 1, 3])
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.FrameVOILUTSequence, group.PixelValueTransformationSequence
    dataset.WindowCenter, dataset.WindowWidth = "1000", "2001"
    catalog = opened(tmp_path / "d", ",axis=coronal", mr=written(dataset))
    assert catalog.ids[0] == "mr.dcm#coronal-1"
    for k, image in enumerate(decoded(catalog, *range(Y))):
        assert np.abs(image - SHOWN[::-1, k, ::-1].T).max() <= 0.51


@pytest.mark.parametrize(("dtype", "colour"), [("u1", False), ("u1", True), ("<u2", False), ("<i2", False)])
def test_plain_frames(tmp_path: Path, dtype: str, colour: bool) -> None:
    shape = (5, 9, 7, 3) if colour else (5, 9, 7)
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    entries = {} if dtype == "u1" else {"WindowCenter": "128", "WindowWidth": "256", "VOILUTFunction": "LINEAR_EXACT"}
    catalog = opened(tmp_path / "d", ",colour=true" if colour else "", cine=written(frames_of(pixels, **entries)))
    assert catalog.ids.tolist() == [f"cine.dcm#{k + 1}" for k in range(5)]
    for found, expected in zip(decoded(catalog, 4, 0, 2), pixels[[4, 0, 2]], strict=True):
        assert np.abs(found.astype(int) - expected).max() <= (0 if dtype == "u1" else 1)


def test_frames_of_one_bit_that_begin_within_a_byte(tmp_path: Path) -> None:
    bits = np.random.default_rng(2).integers(0, 2, (5, 3, 5)).astype(np.uint8)
    dataset = frames_of(bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    content = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    catalog = opened(tmp_path / "d", bits=written(dataset))
    for found, expected in zip(decoded(catalog, *range(5)), bits, strict=True):
        assert np.array_equal(found, expected * 255)


def test_frames_in_big_endian(tmp_path: Path) -> None:
    pixels = np.arange(5 * 6 * 7, dtype=">u2").reshape(5, 6, 7)
    dataset = frames_of(pixels, **WINDOW)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, little_endian=False, implicit_vr=False, enforce_file_format=True)
    catalog = opened(tmp_path / "d", big=buffer.getvalue())
    for found, expected in zip(decoded(catalog, *range(5)), pixels, strict=True):
        assert np.abs(found - np.clip((expected + 0.5) / 2000, 0, 1) * 255).max() <= 0.51


def packed_frames(pixels: NDArray[np.uint8], table: str, syntax: UID) -> pydicom.Dataset:
    """Compressed frames, with a table of offsets: none, "basic" or "extended"; "fragments" cuts each in two, without one."""
    dataset = frames_of(pixels)
    if syntax == JPEGBaseline8Bit:
        frames = [encode_jpeg(one) for one in pixels]
    else:
        encoder = get_encoder(syntax)
        one = made(pixels[0])
        frames = [
            encoder.encode(
                each.tobytes(),
                **{key: one[name].value for key, name in ENTRIES.items()},
                number_of_frames=1,
            )
            for each in pixels
        ]
    dataset.file_meta.TransferSyntaxUID = syntax
    if table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        dataset.PixelData = encapsulate(frames, fragments_per_frame=2 if table == "fragments" else 1, has_bot=table == "basic")
    dataset["PixelData"].is_undefined_length = True
    return dataset


ENTRIES = {
    "rows": "Rows",
    "columns": "Columns",
    "samples_per_pixel": "SamplesPerPixel",
    "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored",
    "pixel_representation": "PixelRepresentation",
    "photometric_interpretation": "PhotometricInterpretation",
}


@pytest.mark.parametrize("table", ["none", "basic", "extended"])
def test_compressed_frames(tmp_path: Path, table: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (4, 16, 12)).astype(np.uint8)
    catalog = opened(tmp_path / "d", rle=written(packed_frames(pixels, table, RLELossless)))
    for found, expected in zip(decoded(catalog, 3, 1, 0), pixels[[3, 1, 0]], strict=True):
        assert np.array_equal(found, expected)


def test_a_cine_of_jpegs_in_fragments(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    pixels = np.stack([ramp, ramp[:, ::-1], 255 - ramp])
    dataset = packed_frames(pixels, "fragments", JPEGBaseline8Bit)
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    catalog = opened(tmp_path / "d", us=written(dataset))
    for found, expected in zip(decoded(catalog, 0, 1, 2), pixels, strict=True):
        assert np.abs(found.astype(int) - expected).mean() < 2


def test_only_the_frame_that_is_asked_for_is_decoded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (4, 16, 12)).astype(np.uint8)
    content = bytearray(written(packed_frames(pixels, "basic", RLELossless)))
    starts = [at for at in range(len(content)) if content[at : at + 4] == b"\xfe\xff\x00\xe0"][1:]
    content[starts[2] + 8 : starts[2] + 72] = b"\xff" * 64  # the header of the third
    catalog = opened(tmp_path / "d", rle=bytes(content))
    for row in (0, 1, 3):
        assert np.array_equal(decoded(catalog, row)[0], pixels[row])
    assert "is damaged" in problem(catalog, 2)


@pytest.mark.parametrize("name", ["SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm"])
def test_pydicoms_own_files(tmp_path: Path, name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    expected = pydicom.dcmread(path).pixel_array
    catalog = opened(tmp_path / "d", ",colour=true", two=path.read_bytes())
    shift = 8 * expected.dtype.itemsize - 8
    for found, truth in zip(decoded(catalog, 0, 1), expected, strict=True):
        assert np.array_equal(found, truth >> shift)


def test_masks_and_other_objects_with_frames_are_no_images(tmp_path: Path) -> None:
    pixels = np.zeros((3, 4, 4), np.uint8)
    catalog = opened(
        tmp_path / "d",
        seg=written(frames_of(pixels, SOPClassUID=SegmentationStorage)),
        dose=written(frames_of(pixels, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2")),
        slide=written(frames_of(pixels, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6")),
        image=written(made(pixels[0])),
    )
    assert catalog.ids.tolist() == ["image.dcm"]
    assert {one.reason: one.names for one in catalog.not_read.reasons} == {
        Reason.FRAMES: ("dose.dcm", "slide.dcm"),
        Reason.MASK: ("seg.dcm",),
    }


PIXELS = np.random.default_rng(5).integers(0, 256, (3, 8, 8)).astype(np.uint8)


def lying(**entries: Any) -> pydicom.Dataset:
    dataset = frames_of(PIXELS)
    for key, value in entries.items():
        setattr(dataset, key, value)
    return dataset


def with_offsets(offsets: list[int]) -> pydicom.Dataset:
    dataset = packed_frames(PIXELS, "basic", RLELossless)
    content = bytearray(dataset.PixelData)
    content[8:20] = np.array(offsets, "<u4").tobytes()
    dataset.PixelData = bytes(content)
    dataset["PixelData"].is_undefined_length = True
    return dataset


def with_extended(offsets: list[int], lengths: list[int]) -> pydicom.Dataset:
    dataset = packed_frames(PIXELS, "extended", RLELossless)
    dataset.ExtendedOffsetTable = np.array(offsets, "<u8").tobytes()
    dataset.ExtendedOffsetTableLengths = np.array(lengths, "<u8").tobytes()
    return dataset


def fewer_groups() -> pydicom.Dataset:
    dataset = enhanced([0, 1, 2, 3, 4])
    del dataset.PerFrameFunctionalGroupsSequence[3:]
    return dataset


@pytest.mark.parametrize(
    ("dataset", "images", "said"),
    [
        (lambda: lying(NumberOfFrames="1000000"), 1, "claims 1,000,000 frames, and the maximum is 20,000"),
        (lambda: lying(NumberOfFrames="19000"), 1, "which its 19,000 frames need 1,216,000 of; restore the file"),
        (lambda: lying(NumberOfFrames="4"), 4, "has 192 bytes in PixelData (7FE0,0010), which its 4 frames need 256 of"),
        (lambda: lying(NumberOfFrames="-3"), 1, "claims -3 frames in NumberOfFrames (0028,0008)"),
        (lambda: lying(Rows=0), 3, "claims 8 x 0 pixels"),
        (lambda: lying(Columns=0), 3, "claims 0 x 8 pixels"),
        (lambda: lying(Rows=65535, Columns=65535), 1, "is refused before decoding because it claims 65,535 x 65,535"),
        (lambda: lying(PixelData=b""), 3, "has no pixels, because its PixelData (7FE0,0010) is empty"),
        (fewer_groups, 5, "has 5 frames, but PerFrameFunctionalGroupsSequence (5200,9230) describes 3; correct"),
        (lambda: with_offsets([0, 2**31, 2**32 - 8]), 3, "has no frame 2 where its table of offsets"),
        (lambda: with_extended([0, 2**62, 2**64 - 1], [64] * 3), 3, "has no frame 2 where its table of offsets"),
        (lambda: with_extended([0], [64]), 3, "has no frame 2 where its table of offsets"),
    ],
)
def test_files_that_lie_are_refused(tmp_path: Path, dataset: Callable[[], pydicom.Dataset], images: int, said: str) -> None:
    catalog = opened(tmp_path / "d", bad=written(dataset()), good=written(made(PIXELS[0])))
    assert len(catalog) == images + 1  # the damaged one says so when it is read, and the other one is read
    told = [problem(catalog, row) for row in range(images) if not said.startswith("has no frame") or row == 1]
    assert all(said in one and one.count("\n") == 0 and "bad.dcm" in one for one in told), told
    assert np.array_equal(decoded(catalog, images)[0], PIXELS[0])


def test_an_offset_that_spans_everything_costs_one_file(tmp_path: Path) -> None:
    dataset = with_offsets([0, 0, 0])
    catalog = opened(tmp_path / "d", bad=written(dataset))
    for row in range(3):
        (found,) = catalog.reader.read(np.array([row]))
        assert isinstance(found, PetechiaError | np.ndarray)


def test_a_file_that_changes_its_frames_is_noticed(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "d", cine=written(frames_of(PIXELS)))
    before = catalog.reader.fingerprint()
    (tmp_path / "d" / "cine.dcm").write_bytes(written(frames_of(PIXELS[:2])))
    assert catalog.reader.fingerprint() != before
    assert "has 2 frames, and had 3 when it was opened" in problem(catalog)


def test_limits_of_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from petechia.core.budget import budget  # noqa: PLC0415

    monkeypatch.setenv("PETECHIA_LIMITS", "volume_bytes=100")
    budget.cache_clear()
    try:
        with pytest.raises(PetechiaError, match="cannot be read as asked: it needs 1,120 bytes, and the maximum is 100"):
            open_source(f"dicom:{write_series(tmp_path / 's', 'axial')},axis=coronal")
    finally:
        monkeypatch.undo()
        budget.cache_clear()


def test_sides_that_are_claimed_are_bounded_before_slices_are_counted(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "s", "axial").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new("Rows", "UL", 2**31)
        dataset.Columns = 1
        path.write_bytes(written(dataset))
    with pytest.raises(PetechiaError, match="it needs 42,949,672,960 bytes, and the maximum is 2,147,483,648"):
        open_source(f"dicom:{tmp_path / 's'},axis=coronal")


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    (root / "a").write_bytes(written(frames_of(PIXELS)))
    (root / "a#2").write_bytes(written(made(PIXELS[0])))
    with pytest.raises(PetechiaError, match="two images that are called 'a#2'"):
        open_source(f"dicom:{root}")


@pytest.mark.parametrize(
    "entries",
    [
        {"ImageOrientationPatient": [1e300, 0, 0, 0, 1e300, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImagePositionPatient": [1e308, 0, 0]},
        {"ImagePositionPatient": [0, 0]},
    ],
)
def test_places_that_make_no_sense_are_none(tmp_path: Path, entries: dict[str, Any]) -> None:
    root = write_series(tmp_path / "s", "axial")
    path = sorted(root.iterdir())[0]
    dataset = pydicom.dcmread(path)
    for key, value in entries.items():
        setattr(dataset, key, value)
    path.write_bytes(written(dataset))
    catalog = open_source(f"dicom:{root}")
    assert len(decoded(catalog, *range(Z))) == Z
    across = open_source(f"dicom:{root},axis=coronal")  # of the other slices
    assert decoded(across, 0).shape == (1, Z - 1, X)
    assert {one.reason: one.names for one in across.not_read.reasons} == {Reason.SLICES: (path.name,)}


def test_an_enhanced_ct_of_highdicom_agrees_with_its_own_reader(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs highdicom, which writes the truth")
    base, series = pydicom.dcmread(str(get_testdata_file("CT_small.dcm"))), []
    for k in range(4):
        one = copy.deepcopy(base)
        one.PixelData = np.random.default_rng(k).integers(0, 2000, (128, 128)).astype(np.int16).tobytes()
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = UID(f"{base.SeriesInstanceUID}.{k + 1}")
        one.InstanceNumber, one.ImagePositionPatient = str(k + 1), [0, 0, (k * 3) % 4]
        one.WindowCenter, one.WindowWidth = str(500 + 100 * k), "800"
        series.append(one)
    uids = {"series_instance_uid": f"{base.SeriesInstanceUID}.8", "sop_instance_uid": f"{base.SeriesInstanceUID}.9"}
    made_of = highdicom.legacy.LegacyConvertedEnhancedCTImage(series, series_number=1, instance_number=1, **uids)
    (tmp_path / "d").mkdir()
    made_of.save_as(tmp_path / "d" / "e.dcm")
    truth, catalog = highdicom.imread(tmp_path / "d" / "e.dcm"), open_source(f"dicom:{tmp_path / 'd'}")
    depths = []
    for name, found in zip(catalog.ids.tolist(), decoded(catalog, *range(4)), strict=True):
        number = int(name.partition("#")[2])
        expected = truth.get_frame(number, apply_voi_transform=True, voi_output_range=(0, 255))
        assert np.abs(found - expected).max() <= 0.51
        group = truth.PerFrameFunctionalGroupsSequence[number - 1]
        depths.append(float(group.PlanePositionSequence[0].ImagePositionPatient[2]))
    assert depths == [0, 1, 2, 3]
