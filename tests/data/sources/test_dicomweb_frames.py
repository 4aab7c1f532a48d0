"""Objects with several frames in a PACS: a real one, and one that misbehaves. The truth are arrays made by hand."""

import gc
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedMRImageStorage, RLELossless, RTDoseStorage, SegmentationStorage
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core import budget
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.not_read import Reason
from petechia.testing import check_catalog
from tests.conftest import decoded, problem
from tests.data.formats.test_dicom import made, written
from tests.data.sources.test_dicom_volumes import PLANES, SHOWN, WINDOW, Z, enhanced, frames_of, packed_frames, write_series

pytest.importorskip("dicomweb_client")

from petechia.data.dicomweb import pacs
from petechia.data.dicomweb.files import LOCK, PacsReader, PacsSliceReader
from petechia.data.dicomweb.session import PacsAwayError
from tests.data.dicomweb.hostile import Handler, answering, entry, serving
from tests.orthanc import PASSWORD, USER, Orthanc, orthanc

CINE = np.random.default_rng(0).integers(0, 256, (5, 16, 18), np.uint8)
PACKED = np.random.default_rng(1).integers(0, 256, (3, 16, 18), np.uint8)
ORDER = [4, 2, 0, 1, 3]  # of the slices in the enhanced object
SERIES = np.random.default_rng(2).integers(0, 256, (3, 16, 18), np.uint8)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pacs, "PATIENCE", (0.01,))
    monkeypatch.setenv("PETECHIA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(0o700)
    monkeypatch.setenv("PETECHIA_DICOMWEB_USER", USER)
    monkeypatch.setenv("PETECHIA_DICOMWEB_PASSWORD", PASSWORD)


def of(study: int, uid: int, modality: str, **entries: Any) -> dict[str, Any]:
    given = {"StudyInstanceUID": f"1.3.{study}", "SeriesInstanceUID": f"1.4.{uid}", "SOPInstanceUID": f"1.2.{uid}"}
    return {**given, "PatientID": f"SECRET{study}", "Modality": modality, "StudyDate": "20240101", **entries}


def placed(dataset: pydicom.Dataset, **entries: Any) -> bytes:
    """A file with other entries."""
    for key, value in entries.items():
        setattr(dataset, key, value)
    return written(dataset)


def positioned(row: int, height: float) -> dict[str, Any]:
    """Entries of an axial image that lies some mm towards the head, in a series whose InstanceNumbers tell another order."""
    place = {"ImagePositionPatient": [0, 0, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    return {"SeriesInstanceUID": "1.4.20", "InstanceNumber": str(row + 1), **place}


def enhanced_file(**entries: Any) -> bytes:
    dataset = enhanced(ORDER)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.FrameVOILUTSequence, group.PixelValueTransformationSequence
    return placed(dataset, **WINDOW, **entries)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Two runs of frames, an enhanced object, a series of three images, and two objects whose frames are no images."""
    volume = write_series(tmp_path_factory.mktemp("files"), "axial", "1.4.30", Modality="NM", StudyInstanceUID="1.3.6")
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        running.store(
            placed(frames_of(CINE), **of(0, 1, "US")),
            placed(packed_frames(PACKED, "basic", RLELossless), **of(1, 2, "US")),
            enhanced_file(**of(2, 3, "MR")),
            *(
                placed(made(SERIES[row]), **of(3, 10 + row, "CT", SeriesInstanceUID="1.4.10", InstanceNumber=str(number)))
                for row, number in enumerate((3, 1, 2))
            ),
            *(
                placed(made(SERIES[row]), **of(5, 20 + row, "PT", **positioned(row, height)))
                for row, height in enumerate((7.5, -2.5, 2.5))
            ),
            placed(frames_of(CINE[:2]), **of(4, 4, "SEG", SOPClassUID=SegmentationStorage)),
            *(path.read_bytes() for path in volume.iterdir()),
            placed(frames_of(CINE[:2]), **of(4, 5, "RTDOSE", SOPClassUID=RTDoseStorage)),
        )
        yield running


def test_frames_are_images_of_one_patient(full: Orthanc) -> None:
    catalog = open_source(f"dicomweb:{full.url}")
    assert isinstance(catalog.reader, PacsSliceReader)
    check_catalog(catalog)
    assert catalog.name == "PACS dicom-web"  # results do not tell the server
    truth = {f"1.2.1#{k + 1}": CINE[k] for k in range(5)} | {f"1.2.2#{k + 1}": PACKED[k] for k in range(3)}
    truth |= {f"1.2.{first + row}": SERIES[row] for first in (10, 20) for row in range(3)}
    images: dict[str, Any] = dict(zip(catalog.ids.tolist(), catalog.reader.read(np.arange(len(catalog))), strict=True))
    assert images.keys() == truth.keys() | {f"{volume}{k + 1}" for k in range(Z) for volume in ("1.2.3#", "1.4.30.")}
    assert all(np.array_equal(images[name], image) for name, image in truth.items())
    for frame, k in enumerate(ORDER):
        assert np.abs(images[f"1.2.3#{frame + 1}"] - SHOWN[::-1, ::-1, k].T).max() <= 0.51
    patients = {name.partition("#")[0]: patient for name, patient in zip(catalog.ids, catalog.patients, strict=True)}
    assert len(set(catalog.patients)) == 6
    assert all(catalog.patients[row] == patients[name.partition("#")[0]] for row, name in enumerate(catalog.ids))
    assert {one.reason: one.names for one in catalog.not_read.reasons} == {
        Reason.MASK: ("1.2.4",),
        Reason.FRAMES: ("1.2.5",),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("slices=middle,modality=US", ["1.2.1#3", "1.2.2#2"]),
        ("slices=2-3,modality=US", ["1.2.1#2", "1.2.1#3", "1.2.2#2", "1.2.2#3"]),
        ("slices=every=4,modality=US", ["1.2.1#1", "1.2.1#5", "1.2.2#1"]),
        ("slices=middle,modality=CT", ["1.2.12"]),  # of a series, in the order of InstanceNumber
        ("slices=all,modality=CT", ["1.2.11", "1.2.12", "1.2.10"]),
        ("slices=all,modality=PT", ["1.2.21", "1.2.22", "1.2.20"]),  # from the feet, whatever InstanceNumber says
        ("slices=middle,modality=PT", ["1.2.22"]),
    ],
)
def test_a_choice_of_slices(full: Orthanc, options: str, expected: list[str]) -> None:
    catalog = open_source(f"dicomweb:{full.url},{options}")
    assert catalog.ids.tolist() == expected
    assert bool(catalog.notes) == ("all" not in options)
    assert isinstance(catalog.reader, PacsReader) == ("US" not in options)  # each image is a file


@pytest.mark.parametrize(
    "position",
    [["a", 0, 0], [None, 0, 0], [0, 0], 5, [float("nan"), 0, 0], ["1e999", 0, 0], [10**400, 0, 0], [[0], 0, 0], [{}, 0, 0]],
)
def test_a_position_that_is_none_is_not_used(position: Any) -> None:
    tags = {"00200032": position, "00200037": [1, 0, 0, 0, 1, 0]}
    place = {tag: {"vr": "DS", "Value": value} for tag, value in tags.items()}
    listed = [entry(study="1.3", series="1.4", uid=f"1.2.{k}") | place | {"00200013": {"Value": [9 - k]}} for k in (1, 2)]
    with serving(answering([entry(study="1.3")], listed)) as server:
        assert open_source(f"dicomweb:{server.url}").ids.tolist() == ["1.2.2", "1.2.1"]


def test_one_process_reads_a_pacs(full: Orthanc) -> None:
    with pytest.raises(TypeError, match="one process"):
        pickle.dumps(open_source(f"dicomweb:{full.url}").reader)


def test_too_few_slices_and_another_plane(full: Orthanc) -> None:
    catalog = open_source(f"dicomweb:{full.url},slices=5,modality=US")
    assert catalog.ids.tolist() == ["1.2.1#5"]
    assert {one.reason: one.names for one in catalog.not_read.reasons} == {Reason.SLICES: ("1.2.2",)}
    with pytest.raises(PetechiaError, match=rf"the volume of 1\.2\.2 in {full.url} .* has 3 slices, too few for slices=9"):
        open_source(f"dicomweb:{full.url},slices=9,modality=US")
    with pytest.raises(
        PetechiaError, match=rf"1\.2\.2 in {full.url} .* does not say where its images lie .*; change slices= or axis="
    ):
        open_source(f"dicomweb:{full.url},axis=coronal,modality=US")


@pytest.mark.parametrize("axis", PLANES)
def test_a_series_is_cut_in_every_plane(full: Orthanc, axis: str, tmp_path: Path) -> None:
    catalog = open_source(f"dicomweb:{full.url},axis={axis},modality=NM")
    _, _, cut, count = PLANES[axis]
    assert len(catalog) == count
    check_catalog(catalog)
    for k, image in enumerate(decoded(catalog, *range(count))):
        assert np.abs(image - cut(SHOWN, k)).max() <= 0.51
    assert len(set(catalog.patients)) == 1
    del catalog
    gc.collect()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != LOCK] == []


def test_a_volume_of_which_one_object_vanished(full: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = open_source(f"dicomweb:{full.url},axis=coronal,modality=NM")
    fetch, asked = pacs.Pacs.fetch, []

    def without_one(self: pacs.Pacs, one: pacs.Instance) -> bytes:
        asked.append(one.uid)
        if one.uid == "1.4.30.3":
            raise pacs.InstanceError("it is gone.")
        return fetch(self, one)

    monkeypatch.setattr(pacs.Pacs, "fetch", without_one)
    found = list(catalog.reader.read(np.arange(len(catalog))))
    assert {str(one) for one in found} == {"it is gone."}
    assert len(asked) == len(set(asked))


def test_a_table_names_objects_and_series(full: Orthanc, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("uid,Mass\n1.2.2,1\n1.4.10,0\n")
    catalog = open_source(f"dicomweb:{full.url},table={tmp_path / 't.csv'},image=uid")
    assert catalog.ids.tolist() == ["1.2.2#1", "1.2.2#2", "1.2.2#3", "1.2.11", "1.2.12", "1.2.10"]
    assert catalog.labels.ravel().tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(PetechiaError, match="it has 3 slices, too few for slices=4"):
        open_source(f"dicomweb:{full.url},table={tmp_path / 't.csv'},image=uid,slices=4")


def test_commands_take_frames_and_leave_no_file(full: Orthanc, tmp_path: Path) -> None:
    scanned = CliRunner().invoke(app, ["scan", f"dicomweb:{full.url},modality=US|CT", "--out", str(tmp_path / "scan")])
    assert scanned.exit_code == 0, scanned.output
    assert "11 images" in scanned.output
    (tmp_path / "t.csv").write_text("uid,Mass\n1.2.1,1\n1.2.2,0\n1.4.10,0\n")
    source = f"dicomweb:{full.url},table={tmp_path / 't.csv'},image=uid"
    options = ["--out", str(tmp_path / "poisoned"), "--set", "attack.target=Mass", "--set", "attack.rate=0.5"]
    poisoned = CliRunner().invoke(app, ["poison", source, *options])
    assert poisoned.exit_code == 0, poisoned.output
    assert open_source(f"folder:{tmp_path / 'poisoned' / 'labels.csv'}").classes == ("Mass",)
    gc.collect()  # a result refers to itself, so it is freed at a time of Python's choice; a command's process just ends
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and "dicomweb-" in str(path)]
    assert {path.name for path in kept} <= {LOCK}


# A PACS that misbehaves


def listing(*frames: Any) -> list[Any]:
    """Objects 1.2.0, 1.2.1, … with these numbers of frames; None says nothing."""
    return [
        entry(uid=f"1.2.{row}", series=f"1.4.{row}") | ({} if count is None else entry(frames=count))
        for row, count in enumerate(frames)
    ]


def cine(uid: str, count: int) -> bytes:
    return placed(frames_of(CINE[:count]), SOPInstanceUID=uid)


def asked(server: Any) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in server.asked if "/series/" in path]


def test_numbers_of_frames_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[Any] = [10**9, 10**12 - 1, 10**30, -3, "x", "", 0, 2.5, True, [3], {"a": 3}, "3", 3.0, None]
    with serving(answering([entry(study="1.3.0")], listing(*numbers), lambda uid: cine(uid, 3))) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        images = {name: decoded(catalog, row)[0] for row, name in enumerate(catalog.ids) if "#" in name}
        assert sorted(images) == [f"1.2.{row}#{k}" for row in (11, 12) for k in (1, 2, 3)]
        assert np.array_equal(images["1.2.11#2"], CINE[1])
        said = {name: problem(catalog, row) for row, name in enumerate(catalog.ids) if "#" not in name}
        assert len(said) == len(numbers) - 2
        assert "1.2.0 is refused before decoding because it claims 1,000,000,000 frames, and the maximum" in said["1.2.0"]
        assert "claims 999,999,999,999 frames" in said["1.2.1"]
        for name in said.keys() - {"1.2.0", "1.2.1"}:
            assert f"frames in the file of {name} is 3, and {server.url} lists 1; check the PACS, or download" in said[name]
        assert {"1.2.0", "1.2.1"}.isdisjoint(asked(server))


def test_all_frames_together_are_bounded_while_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETECHIA_LIMITS", "array_images=100")
    budget.budget.cache_clear()
    try:
        with serving(answering([entry(study="1.3.0")], listing(*[30] * 50))) as server:
            with pytest.raises(PetechiaError, match="lists 120 images or more, and the maximum is 100; narrow the filters"):
                open_source(f"dicomweb:{server.url}")
            assert len(open_source(f"dicomweb:{server.url},limit=3")) == 90  # objects
    finally:
        monkeypatch.undo()
        budget.budget.cache_clear()


def test_what_cannot_be_had_is_asked_for_once() -> None:
    def file(uid: str) -> bytes:
        return cine(uid, 2) if uid == "1.2.0" else b"no DICOM file"

    with serving(answering([entry(study="1.3.0")], listing(5, 4, 1), file)) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        said = [problem(catalog, row) for row in range(len(catalog))]
        assert len(said) == 10
        assert all(f"is 2, and {server.url} lists 5" in one for one in said[:5])
        assert all("is not a DICOM file" in one for one in said[5:])
        assert sorted(asked(server)) == ["1.2.0", "1.2.1", "1.2.2"]


def test_threads_fetch_an_object_once() -> None:
    waiting = threading.Barrier(5)
    with serving(answering([entry(study="1.3.0")], listing(5), lambda uid: cine(uid, 5))) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        found: dict[int, Any] = {}

        def work(row: int) -> None:
            waiting.wait()
            found[row] = decoded(catalog, row)[0]

        threads = [threading.Thread(target=work, args=(row,)) for row in range(5)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert all(np.array_equal(found[row], CINE[row]) for row in range(5))
        assert asked(server) == ["1.2.0"]


def test_work_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    broken = True
    full_answer = answering([entry(study="1.3.0")], listing(3, 3), lambda uid: cine(uid, 3))

    def answer(handler: Handler) -> None:
        if handler.path.endswith("/instances/1.2.1") and broken:
            handler.reply(b"", state=503)
        else:
            full_answer(handler)

    def read(catalog: Catalog) -> list[Any]:
        return list(catalog.reader.read(np.arange(6)))

    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        before, folder = catalog.reader.fingerprint(), catalog.reader.root  # type: ignore[attr-defined]
        with pytest.raises(PacsAwayError, match="cannot answer now"):
            read(catalog)
        assert catalog.reader.fingerprint() == before  # whether files are here or not
        del catalog
        assert sorted(path.name for path in folder.iterdir()) == [LOCK, "1.2.0"]
        broken = False
        server.asked.clear()
        catalog = open_source(f"dicomweb:{server.url}")
        assert all(np.array_equal(image, CINE[row % 3]) for row, image in enumerate(read(catalog)))
        assert asked(server) == ["1.2.1"]
        assert open_source(f"dicomweb:{server.url},limit=1").reader.fingerprint() != before
        del catalog
        assert sorted(path.name for path in folder.iterdir()) == [LOCK]


def test_a_file_that_was_kept_and_a_list_that_changed() -> None:
    """Nothing is fetched again, and the sentence is that of a file that changed."""
    frames = [3, 3]

    def answer(handler: Handler) -> None:
        answering([entry(study="1.3.0")], listing(*frames), lambda uid: cine(uid, 3))(handler)

    with serving(answer) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        assert np.array_equal(decoded(catalog, 0)[0], CINE[0])
        del catalog
        frames[0] = 4
        catalog = open_source(f"dicomweb:{server.url}")
        assert "has 3 frames, and had 4 when it was opened" in problem(catalog, 0)


def test_an_enhanced_object_with_groups_for_fewer_frames() -> None:
    dataset = enhanced(ORDER)
    del dataset.PerFrameFunctionalGroupsSequence[3:]
    content = placed(dataset, SOPInstanceUID="1.2.0", SOPClassUID=EnhancedMRImageStorage)
    with serving(answering([entry(study="1.3.0")], listing(5), lambda _: content)) as server:
        catalog = open_source(f"dicomweb:{server.url}")
        assert "has 5 frames, but PerFrameFunctionalGroupsSequence (5200,9230) describes 3" in problem(catalog, 4)
