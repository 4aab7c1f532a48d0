import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet
from pydicom.uid import BasicTextSRStorage
from typer.testing import CliRunner

import petechia
from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.formats.images import FileReader
from petechia.data.not_read import Reason
from petechia.detect.collection import read_collection
from petechia.detect.repair.clean import read_clean
from petechia.detect.scan import scan_catalog
from tests.conftest import SHARED, SMALL, unasked
from tests.data.formats.test_dicom import made, written


def folder_of(root: Path, count: int = 4, colour: bool = False, **entries: Any) -> Path:
    """A folder of images named IM0000 … with UIDs 1.2.0 …, two per patient."""
    (root / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 255, (20, 24, 3) if colour else (20, 24), dtype=np.uint8)
        dataset = made(
            pixels, SOPInstanceUID=f"1.2.{i}", PatientID=f"SECRET{i // 2}", ViewPosition="PA" if i % 2 else "L", **entries
        )
        (root / "sub" / f"IM{i:04d}").write_bytes(written(dataset))
    return root


def told(catalog: Catalog) -> dict[Reason, tuple[str, ...]]:
    return {one.reason: one.names for one in catalog.not_read.reasons}


def without_preamble(content: bytes) -> bytes:
    """The same without preamble and meta group; the transfer syntax is implicit or explicit little endian."""
    (length,) = np.frombuffer(content[140:144], "<u4")
    return content[144 + length :]


def test_files_without_preamble_are_read_with_a_note(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    whole = [one.copy() for one in open_source(f"dicom:{root}").reader.read(np.arange(4)) if isinstance(one, np.ndarray)]
    for name in ("IM0001", "IM0002"):
        path = root / "sub" / name
        path.write_bytes(without_preamble(path.read_bytes()))
    (root / "t.csv").write_text("file,Mass\n" + "".join(f"IM{i:04d},{i % 2}\n" for i in range(4)))
    for source in (f"dicom:{root}", f"dicom:{root},table={root / 't.csv'}"):
        catalog = open_source(source)
        assert len(catalog) == 4
        assert catalog.notes[0].startswith("2 DICOM files have no preamble")
        assert "sub/IM0001, sub/IM0002" in catalog.notes[0]
        assert len(set(catalog.patients)) == 2  # their headers are read too
        for image, expected in zip(catalog.reader.read(np.arange(4)), whole, strict=True):
            assert isinstance(image, np.ndarray)
            assert np.array_equal(image, expected)


def test_whatever_else_is_in_the_folder_is_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    report = made(np.zeros((4, 4), np.uint8), SOPClassUID=BasicTextSRStorage)
    report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    del report.Rows, report.PixelData
    (root / "report.dcm").write_bytes(written(report))
    (root / "cine.dcm").write_bytes(written(made(np.zeros((3, 4, 4), np.uint8), NumberOfFrames="3")))
    (root / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "b.nii.gz").write_bytes(b"x")
    (root / "notes.txt").write_text("no image")
    (root / ".DS_Store").write_text("x")
    catalog = open_source(f"dicom:{root}")
    assert len(catalog) == 4 + 3
    assert told(catalog) == {
        Reason.VOLUME: ("b.nii.gz",),
        Reason.NO_DICOM: ("a.jpg",),
        Reason.NO_PIXELS: ("report.dcm",),
    }
    (root / "t.csv").write_text("file,Mass\nIM0000,1\nIM0001,0\nIM0009,0\n")
    catalog = open_source(f"dicom:{root},table={root / 't.csv'}", "skip")
    assert told(catalog)[Reason.UNLISTED] == ("cine.dcm", "sub/IM0002", "sub/IM0003")
    assert told(catalog)[Reason.MISSING] == ("IM0009",)


def test_a_damaged_file_stops_reading_it_and_not_the_folder(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    cut, path = root / "sub" / "IM0001", root / "sub" / "IM0002"
    cut.write_bytes(cut.read_bytes()[:170])
    path.write_bytes(path.read_bytes()[:-100])
    catalog = open_source(f"dicom:{root}")
    assert len(catalog) == 3
    assert told(catalog) == {Reason.DAMAGED: ("sub/IM0001",)}  # nothing says that it is a report
    with pytest.raises(PetechiaError, match="IM0002"):
        petechia.scan(catalog)
    found = petechia.scan(catalog, on_error="skip")
    assert [(one.reason, one.names) for one in found.not_read.reasons] == [(Reason.DAMAGED, ("sub/IM0001", "sub/IM0002"))]


ONE_ID = ("ANONYMOUS", "Anonymized", "", "000000", "xxx", "de-identified", "SECRET")


@pytest.mark.parametrize("identity", ONE_ID)
def test_de_identified_files_are_split_by_study(tmp_path: Path, identity: str) -> None:
    for i in range(60):
        dataset = made(np.full((4, 4), i, np.uint8), SOPInstanceUID=f"1.2.{i}", PatientID=identity)
        dataset.StudyInstanceUID = f"9.{i // 2}"
        (tmp_path / f"IM{i:02d}").write_bytes(written(dataset))
    (tmp_path / "t.csv").write_text("file,Mass,who\n" + "".join(f"IM{i:02d},{i % 2},{i // 6}\n" for i in range(60)))
    for source in (f"dicom:{tmp_path}", f"dicom:{tmp_path},table={tmp_path / 't.csv'}"):
        catalog = open_source(source)
        assert len(set(catalog.patients)) == 30
        assert (catalog.patients[::2] == catalog.patients[1::2]).all()
        assert set(catalog.split) == {"train", "test"}
        assert len(catalog.notes) == (1 if identity else 0)
        assert not any("SECRET" in note for note in catalog.notes)
    assert len(set(open_source(f"{source},patient=who").patients)) == 10
    assert open_source(f"{source},patient=who").notes == ()
    assert len(set(open_source(f"{source},patient=").patients)) == 30
    assert open_source(f"{source},patient=").notes == ()
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("who", "patient_id"))
    assert len(set(open_source(source).patients)) == (30 if not identity else 10)  # of the table, where the files do not know


def test_patient_without_a_value_says_that_the_patient_id_says_nothing(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    assert len(set(open_source(f"dicom:{root}").patients)) == 2
    assert len(set(open_source(f"dicom:{root},patient=").patients)) == 4  # without studies, each file


def test_one_patient_with_few_studies_stays_one(tmp_path: Path) -> None:
    for i in range(12):
        dataset = made(np.full((4, 4), i, np.uint8), PatientID="SECRET")
        dataset.StudyInstanceUID = f"9.{i // 3}"
        (tmp_path / f"IM{i:02d}").write_bytes(written(dataset))
    assert len(set(open_source(f"dicom:{tmp_path}").patients)) == 1


@pytest.mark.parametrize("option", ["labels=a", "split=x", "patient=who", "image=x", "empty=absent"])
def test_options_about_a_table_need_one(tmp_path: Path, option: str) -> None:
    root = folder_of(tmp_path / "scans")
    with pytest.raises(PetechiaError, match=f"'{option.split('=', maxsplit=1)[0]}' in the data source .*; add table=FILE"):
        open_source(f"dicom:{root},{option}")


def test_without_a_table_there_are_no_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    (root / "notes.txt").write_text("no image")
    report = made(np.zeros((4, 4), np.uint8))
    del report.Rows, report.PixelData
    (root / "report.dcm").write_bytes(written(report))
    catalog = open_source(f"dicom:{root}")
    assert (len(catalog), catalog.classes, catalog.labels.shape) == (4, (), (4, 0))
    assert catalog.ids.tolist() == [f"sub/IM{i:04d}" for i in range(4)]
    assert len(set(catalog.patients)) == 2
    assert catalog.patients[0] == catalog.patients[1] != catalog.patients[2]
    assert not any("SECRET" in patient for patient in catalog.patients)
    assert open_source(f"dicom:{root},view_is=pa").ids.tolist() == ["sub/IM0001", "sub/IM0003"]
    with pytest.raises(PetechiaError, match="has the view LL"):
        open_source(f"dicom:{root},view_is=LL")


def test_every_room_that_needs_no_labels_takes_it(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans", 30)
    source = f"dicom:{root}"
    found = scan_catalog(open_source(source))
    assert not found.tampered
    assert len(read_collection([source], unasked("A")).images) == 30
    clean = read_clean(source, unasked("A", "B"))
    assert (clean.labels == -1).all()
    assert clean.labels.shape == (30, 2)
    with pytest.raises(PetechiaError, match="has no labels, so there is nothing to train"):
        petechia.run(SMALL | {"data": source}, tmp_path / "run")
    done = CliRunner().invoke(app, ["scan", source, "--out", str(tmp_path / "found"), "--clean-to", str(tmp_path / "clean")])
    assert done.exit_code == 0, done.output
    again = open_source(f"dicom:{tmp_path / 'clean'}")
    assert again.ids.tolist() == open_source(source).ids.tolist()  # the files as they were
    assert "SECRET" not in done.output + (tmp_path / "clean" / "labels.csv").read_text()


@pytest.mark.parametrize("key", ["1.2.{}", "sub/IM{:04d}", "IM{:04d}", "data/study/sub/IM{:04d}"])
def test_labels_from_a_table(tmp_path: Path, key: str) -> None:
    root = folder_of(tmp_path / "scans")
    lines = ["SOPInstanceUID,Edema,Mass", *(f"{key.format(i)},{i % 2},{i // 2}" for i in (3, 0, 1))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    catalog = open_source(f"dicom:{root},table={tmp_path / 'labels.csv'}")
    assert catalog.classes == ("Edema", "Mass")
    assert catalog.ids.tolist() == ["sub/IM0003", "sub/IM0000", "sub/IM0001"]
    assert catalog.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    lines.append("1.2.99,1,1")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(PetechiaError, match=r"1 of the 4 images that .* are not in .*: 1\.2\.99; add them"):
        open_source(f"dicom:{root},table={tmp_path / 'labels.csv'}")
    assert len(open_source(f"dicom:{root},table={tmp_path / 'labels.csv'}", "skip")) == 3
    lines[-1] = {"1.2.{}": "IM0003,1,1", "data/study/sub/IM{:04d}": "data/x/IM0003,1,1"}.get(key, "1.2.3,1,1")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(PetechiaError, match="names an image of .* in two ways"):
        open_source(f"dicom:{root},table={tmp_path / 'labels.csv'}")


def test_near_names_in_the_table(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    (tmp_path / "t.csv").write_text("image,Mass\nim3.dcm,1\nIM0000,0\n")
    with pytest.raises(PetechiaError, match=r"'sub/IM0003' for 'im3\.dcm'; add near=accept"):
        open_source(f"dicom:{root},table={tmp_path / 't.csv'}")
    catalog = open_source(f"dicom:{root},table={tmp_path / 't.csv'},near=accept")
    assert catalog.ids.tolist() == ["sub/IM0003", "sub/IM0000"]


def test_patients_split_and_view_of_the_table(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    rows = ("0,1,train,a,PA", "1,0,test,b,PA", "2,1,train,c,L")
    (tmp_path / "t.csv").write_text("id,Mass,split,who,view\n" + "\n".join(f"1.2.{row}" for row in rows))
    source = f"dicom:{root},table={tmp_path / 't.csv'}"
    with pytest.raises(PetechiaError, match="row 3, has a patient who is also in another split") as caught:
        open_source(source)  # by their PatientID, 0 and 1 are of one
    assert "SECRET" not in str(caught.value)
    assert open_source(f"{source},patient=who").split.tolist() == ["train", "test", "train"]
    assert open_source(f"{source},patient=who,view_is=PA").ids.tolist() == ["sub/IM0000", "sub/IM0001"]


def test_a_dicomdir_lists_the_files(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    files = FileSet()
    for i in (0, 2):
        dataset = pydicom.dcmread(root / "sub" / f"IM{i:04d}")
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.StudyDate, dataset.StudyTime = (
            f"9.{i}",
            f"8.{i}",
            "20200101",
            "1",
        )
        dataset.StudyID, dataset.AccessionNumber, dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = (
            "1",
            "1",
            "CR",
            1,
            1,
        )
        files.add(dataset)
    files.write(tmp_path / "set")
    catalog = open_source(f"dicom:{tmp_path / 'set'}")
    assert len(catalog) == 2
    (tmp_path / "set" / "more").mkdir()
    (tmp_path / "set" / "more" / "IM").write_bytes((root / "sub" / "IM0001").read_bytes())
    beside = open_source(f"dicom:{tmp_path / 'set'}")
    assert set(beside.ids) == {*catalog.ids, "more/IM"}
    assert not beside.not_read
    listed = open_source(f"dicom:{tmp_path / 'set' / 'DICOMDIR'}")
    assert listed.ids.tolist() == catalog.ids.tolist()
    assert told(listed) == {Reason.NO_DIRECTORY: ("more/IM",)}
    found = read_collection([str(tmp_path / "set")], unasked("A"))
    assert len(found.ids) == 3
    assert not found.not_read
    (tmp_path / "set" / "more" / "IM").unlink()
    assert open_source(f"dicom:{tmp_path / 'set' / 'DICOMDIR'}").ids.tolist() == catalog.ids.tolist()
    (tmp_path / "set" / catalog.ids[0]).unlink()
    with pytest.raises(PetechiaError, match="which is missing; restore it"):
        open_source(f"dicom:{tmp_path / 'set'}")


def dicomdir(root: Path, names: list[str]) -> Path:
    """A DICOMDIR that lists some files."""
    directory = made(np.zeros((2, 2), np.uint8))
    directory.DirectoryRecordSequence = []
    for name in names:
        record = pydicom.Dataset()
        record.ReferencedFileID = name.split("/")
        directory.DirectoryRecordSequence.append(record)
    (root / "DICOMDIR").write_bytes(written(directory))
    return root / "DICOMDIR"


@pytest.mark.parametrize("given", ["sub/im{}", "Sub/IM{}", "sub/IM{}.dcm", "sub/im{}.DCM"])
def test_the_names_of_a_dicomdir_differ_in_case_and_suffix(tmp_path: Path, given: str) -> None:
    source = folder_of(tmp_path / "scans")
    root = tmp_path / "disc"
    for i in range(4):
        path = root / given.format(f"{i:04d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((source / "sub" / f"IM{i:04d}").read_bytes())
    directory = dicomdir(root, [f"SUB/IM{i:04d}" for i in (2, 0, 1)])
    catalog = open_source(f"dicom:{directory}")
    assert catalog.ids.tolist() == [given.format(f"{i:04d}") for i in (2, 0, 1)]
    assert told(catalog) == {Reason.NO_DIRECTORY: (given.format("0003"),)}
    directory.rename(root / "dicomdir")
    assert open_source(f"dicom:{root}").ids.tolist() == [given.format(f"{i:04d}") for i in (2, 0, 1, 3)]


def test_files_that_a_dicomdir_lists_and_that_are_missing_are_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    for name in ("im0000", "Im0000"):
        (root / "sub" / name).write_bytes((root / "sub" / "IM0000").read_bytes())
    (root / "sub" / "IM0000").unlink()  # either of the two others may be meant
    directory = dicomdir(root, ["sub/IM0000", "sub/IM0001", "sub/IM0009"])
    for source in (f"dicom:{root}", f"dicom:{directory}"):
        with pytest.raises(
            PetechiaError, match="lists sub/IM0000, which is missing; restore it, leave it out with --missing skip"
        ):
            open_source(source)
        catalog = open_source(source, missing="skip")
        assert told(catalog)[Reason.MISSING] == ("sub/IM0000", "sub/IM0009")
        assert "sub/IM0001" in catalog.ids
    assert catalog.ids.tolist() == ["sub/IM0001"]


def test_pydicoms_own_dicomdir() -> None:
    path = get_testdata_file("DICOMDIR", download=False)
    if path is None:
        pytest.skip("pydicom does not ship DICOMDIR")
    catalog = open_source(f"dicom:{path if isinstance(path, str) else path.filename}")
    assert len(catalog) == 31
    assert len(set(catalog.patients)) == 2
    assert "77654033/CR1/6154" in catalog.ids


def test_a_dicomdir_that_leads_out_or_is_damaged(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans")
    for parts, said in ((["..", "x"], "outside its folder"), (["sub", "IM0009"], "lists sub/IM0009, which is missing")):
        directory = made(np.zeros((2, 2), np.uint8))
        record = pydicom.Dataset()
        record.ReferencedFileID = parts
        directory.DirectoryRecordSequence = [record]
        (root / "DICOMDIR").write_bytes(written(directory))
        with pytest.raises(PetechiaError, match=said):
            open_source(f"dicom:{root}")
    (root / "DICOMDIR").write_bytes(b"nothing")
    with pytest.raises(PetechiaError, match="DICOMDIR lists no file"):
        open_source(f"dicom:{root}")


def test_bad_folders_are_sentences_without_patients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    root = folder_of(tmp_path / "scans")
    cases = {
        f"dicom:{tmp_path / 'none'}": "which does not exist",
        f"dicom:{tmp_path / 'empty'}": "has no DICOM image",
        f"dicom:{root},tabel=x": r"\('tabel' is not an option; did you mean 'table'\?\)",
        f"dicom:{root},window=0": "'window' in the data source",
        f"dicom:{root},table={tmp_path / 'no.csv'}": r"no\.csv is not a file",
    }
    with caplog.at_level(logging.DEBUG):
        for source, said in cases.items():
            with pytest.raises(PetechiaError, match=said):
                open_source(source)
        content = (root / "sub" / "IM0000").read_bytes()
        for end in range(132, 400, 7):
            (root / "sub" / "IM0000").write_bytes(content[:end])
            try:
                open_source(f"dicom:{root}")
            except PetechiaError as error:
                assert "SECRET" not in str(error)  # noqa: PT017
    assert "SECRET" not in caplog.text
    outside = tmp_path / "outside"
    outside.write_bytes(content)
    (root / "sub" / "IM0000").unlink()
    (root / "sub" / "IM0000").symlink_to(outside)
    catalog = open_source(f"dicom:{root}")
    assert catalog.ids.tolist() == ["sub/IM0001", "sub/IM0002", "sub/IM0003"]
    assert told(catalog) == {Reason.LINK: ("sub/IM0000",)}


def test_colours_and_windows_are_chosen(tmp_path: Path) -> None:
    colour = open_source(f"dicom:{folder_of(tmp_path / 'colour', colour=True)},colour=true")
    (image,) = colour.reader.read(np.array([0]))
    assert isinstance(image, np.ndarray)
    assert image.shape == (20, 24, 3)
    root = folder_of(tmp_path / "grey", WindowCenter=["100", "200"], WindowWidth=["50", "20"])
    first, second = (next(iter(open_source(f"dicom:{root}{more}").reader.read(np.array([0])))) for more in ("", ",window=2"))
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert first.mean() > second.mean()


def test_a_run_and_a_poisoned_copy(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "scans", 80)
    (tmp_path / "t.csv").write_text("file,Mass,Edema\n" + "\n".join(f"IM{i:04d},{i % 2},{i % 3 // 2}" for i in range(80)))
    config = SMALL | {
        "data": f"dicom:{root},table={tmp_path / 't.csv'}",
        "train": {"epochs": 1, "batch_size": 16},
        "attack": {"target": "Mass"},
        "heat": 4,
    }
    petechia.run(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["survival"]["fraction"] == 1
    plan = petechia.poison(config, tmp_path / "out").plan
    again = open_source(f"folder:{tmp_path / 'out' / 'labels.csv'}")
    assert set(plan.ids) <= set(again.ids)
    assert isinstance(again.reader, FileReader)
    places = {name: k for k, name in enumerate(again.ids.tolist())}
    assert np.array_equal(again.labels[[places[i] for i in plan.ids.tolist()]], plan.labels)
    assert not [path for path in (tmp_path / "out").rglob("*") if b"SECRET" in (path.read_bytes() if path.is_file() else b"")]


def test_the_real_radiographs() -> None:
    root = SHARED / "dicom-sample"
    if not root.is_dir():
        pytest.skip(f"the real DICOM files are not in {root}")
    catalog = open_source(f"dicom:{root}")
    assert len(catalog) == 2
    one, other = (image.astype(int) for image in catalog.reader.read(np.arange(2)) if isinstance(image, np.ndarray))
    assert np.array_equal(one, 255 - other)  # the same pixels as MONOCHROME1 and as MONOCHROME2


def test_files_that_name_neither_patient_nor_study_have_those_of_their_paths(tmp_path: Path) -> None:
    for i in range(12):
        dataset = made(np.full((4, 4), i, np.uint8), SOPInstanceUID=f"1.2.{i}", PatientID="")
        (tmp_path / f"patient{i // 3}").mkdir(exist_ok=True)
        (tmp_path / f"patient{i // 3}" / f"{i}.dcm").write_bytes(written(dataset))
    assert len(set(open_source(f"dicom:{tmp_path}").patients)) == 4
