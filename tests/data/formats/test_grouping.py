from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import petechia
from petechia.core.errors import PetechiaError
from petechia.data import open_source
from petechia.data.formats.grouping import GROUP, in_paths
from petechia.testing.sources import check_catalog
from tests.conftest import SMALL

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(header: str, *rows: str, names: tuple[str, ...] = ()) -> str:
        rng = np.random.default_rng(0)
        for name in names or [row.split(",")[0] for row in rows]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / name)
        (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
        return f"folder:{tmp_path / 't.csv'}"

    return write


def lesions(count: int = 80, more: Callable[[int], str] = lambda _: "") -> list[str]:
    """Four images of each lesion."""
    return [f"i{i}.jpg,L{i // 4},{('nv', 'mel')[i // 4 % 2]}{more(i)}" for i in range(count)]


@pytest.mark.parametrize("column", ["lesion_id", "Case ID", "StudyInstanceUID", "accession_number", "anon_patientid", "pid"])
def test_images_of_one_lesion_stay_in_one_split(make: Make, column: str) -> None:
    source = make(f"image_id,{column},dx", *lesions())
    catalog = open_source(source)
    check_catalog(catalog)
    assert catalog.patients.tolist() == [f"L{i // 4}" for i in range(80)]
    assert set(catalog.split) == {"train", "test"}
    (note,) = catalog.notes
    assert note == (
        f"No column names patients, so images that share {column!r} count as those of one patient (20 for 80 images); write "
        f"patient= if each image is its own patient."
    )
    alone = open_source(f"{source},patient=")
    assert len(set(alone.patients)) == 80
    assert f"values of {column!r} have images both in the test split and in another" in alone.notes[0]
    assert f"patient={column} keeps them together" in alone.notes[0]
    named = open_source(f"{source},patient={column}")
    assert (named.patients.tolist(), named.notes) == (catalog.patients.tolist(), ())


def test_a_split_of_the_table_that_separates_them_is_kept_and_told(make: Make) -> None:
    source = make("image_id,lesion_id,dx,split", *lesions(more=lambda i: f",{('train', 'test')[i % 4 == 0 and i < 24]}"))
    catalog = open_source(source)
    assert len(set(catalog.patients)) == 80
    (note,) = catalog.notes
    assert note.startswith("6 of 20 values of 'lesion_id' have images both in the test split and in another")
    assert "patient=lesion_id,split= keeps them together" in note
    assert not [note for note in open_source(f"{source},patient=lesion_id,split=").notes if "lesion_id" in note]


def test_a_split_of_the_table_that_keeps_them_together_is_used(make: Make) -> None:
    catalog = open_source(make("image_id,lesion_id,dx,split", *lesions(more=lambda i: f",{('train', 'test')[i < 24]}")))
    check_catalog(catalog)
    assert len(set(catalog.patients)) == 20
    assert (catalog.split == "test").sum() == 24


def test_the_largest_groups_are_used(make: Make) -> None:
    catalog = open_source(make("image_id,lesion_id,dx,study_id", *lesions(more=lambda i: f",S{i // 8}")))
    assert len(set(catalog.patients)) == 10
    assert len(catalog.notes) == 1


def test_a_patient_column_that_is_split_over_studies_is_used_as_before(make: Make) -> None:
    catalog = open_source(make("image_id,lesion_id,dx,patient", *lesions(more=lambda i: f",{i // 8}")))
    assert (len(set(catalog.patients)), catalog.notes) == (10, ())


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("case", lambda i: str(i % 2)),  # case or control
        ("study", lambda i: ("CheXpert", "NIH", "MIMIC")[i % 3]),  # where it comes from
        ("series", str),  # all different
        ("subject_age", lambda i: str(40 + i // 4)),
        ("lesion_id", lambda i: "L0" if i < 60 else f"L{i}"),  # most of the images
    ],
)
def test_other_columns_are_not_taken_for_groups(make: Make, column: str, cell: Callable[[int], str]) -> None:
    rows = [f"i{i}.jpg,{('nv', 'mel')[i % 2]},{cell(i)}" for i in range(80)]
    catalog = open_source(make(f"image_id,dx,{column}", *rows))
    assert (len(set(catalog.patients)), catalog.notes) == (80, ())


@pytest.mark.parametrize("nothing", ["", "NA", "nan", "unknown"])
def test_images_without_a_lesion_are_alone(make: Make, nothing: str) -> None:
    rows = [f"i{i}.jpg,{('nv', 'mel')[i // 4 % 2]},{nothing if i // 4 in (3, 7) else f'L{i // 4}'}" for i in range(80)]
    catalog = open_source(make("image_id,dx,lesion_id", *rows))
    expected = [f"i{i}.jpg" if i // 4 in (3, 7) else f"L{i // 4}" for i in range(80)]
    assert catalog.patients.tolist() == expected
    assert "(26 for 80 images)" in catalog.notes[0]


@pytest.mark.parametrize("nothing", ["", "NA", "NaN", "Unknown"])
def test_images_without_a_patient_are_not_those_of_one(make: Make, nothing: str) -> None:
    source = make("image,patient,Mass", *(f"i{i}.png,{nothing if i % 2 else f'P{i}'},{i % 2}" for i in range(10)))
    with pytest.raises(PetechiaError, match=r"row 3, has an empty 'patient' \(5 such rows\)"):
        open_source(source)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "{:08d}_{:03d}.png",
            "TCGA-A1-{:04d}-01A-{}.png",
            "case{}_{}.png",
            "LIDC-IDRI-{:04d} ({}).png",
            "OAS1_{:04d}_MR1_{}.png",
        ),
        *("SOB_B_A-14-{:05d}AB-40-{:03d}.png", "{:03d}_S_1000_{}.png", "Mass_P{:05d}_LEFT_view{}.png"),
    ],
)
def test_patients_before_the_last_number_of_a_name(name: str) -> None:
    one_each = np.array([name.format(patient, 0) for patient in range(1, 31)])
    assert in_paths(one_each).tolist() == one_each.tolist()
    ids = np.array([f"{'ab'[patient % 2]}/{name.format(patient, k)}" for patient in range(1, 31) for k in range(30)])
    groups = in_paths(ids, 0)
    assert len(set(groups)) == 30
    assert all(len(set(groups[30 * k : 30 * k + 30])) == 1 for k in range(30))
    assert in_paths(ids, guess=False).tolist() == ids.tolist()


@pytest.mark.parametrize(
    "name", ["{}/img_{}.png", "COVID-19_{0}{1}.png", "batch{0}_{1}.png", "COVID-19 ({0}{1}).png", "1.2.{0}.{1}.dcm"]
)
def test_classes_and_counters_are_no_patients(name: str) -> None:
    ids = np.array([name.format(k % 6, k) for k in range(60)])
    assert in_paths(ids).tolist() == ids.tolist()


def test_a_table_of_patients_is_believed(make: Make) -> None:
    names = [f"{k % 20:03d}_{k}.png" for k in range(80)]
    catalog = open_source(make("image,patient,dx", *(f"{name},P{k // 2},{'ab'[k % 2]}" for k, name in enumerate(names))))
    assert (len(set(catalog.patients)), catalog.notes) == (40, ())


def test_patients_in_paths_are_used(make: Make) -> None:
    rows = [f"train/patient{i // 3:05d}/study1/view{i % 3}.jpg,{i % 2}" for i in range(90)]
    catalog = open_source(make("Path,Edema", *rows))
    check_catalog(catalog)
    assert len(set(catalog.patients)) == 30
    assert "images that share ids in their paths, such as 'patient00000' count as" in catalog.notes[0]


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("train/patient00001/study1/a.jpg", "patient00001"),
        ("person12_bacteria_3.jpeg", "person12"),
        ("NORMAL/p7_a.png", "p7"),
        ("sub-012/anat/x.png", "sub-012"),
        ("Subject 4/x.png", "Subject 4"),
        ("train/CNV/CNV-1016042-12.jpeg", "1016042"),
        ("files/p10/p10000032/s50414267/a.jpg", "p10000032"),
        ("10_left.jpeg", "10"),
        ("10_right", "10"),
        ("10_leftover.png", "10_leftover.png"),
        ("step12_a.png", "step12_a.png"),
        ("patients/a.png", "patients/a.png"),
        ("IM-0001-0001.jpeg", "IM-0001-0001.jpeg"),
    ],
)
def test_ids_in_paths(path: str, group: str) -> None:
    assert in_paths(np.array([path])).tolist() == [group]


@pytest.mark.parametrize("name", ["patientage", "casetype", "studydate", "seriesdescription", "visitmonth", "identity", "sex"])
def test_names_that_only_begin_so(name: str) -> None:
    assert not GROUP.fullmatch(name)


def test_a_run_says_it(make: Make, tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(petechia.study.progress.StudyProgress):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    config = SMALL | {"data": make("image_id,lesion_id,dx", *lesions()), "train": {"epochs": 1, "batch_size": 16}, "heat": 4}
    run = petechia.run(config | {"attack": {"target": "mel"}}, tmp_path / "run", progress=Notes())
    assert any("images that share 'lesion_id' count as those of one patient" in note for note in notes)
    assert run.images.test_patients < run.images.test


@pytest.mark.parametrize("column", ["patient_no", "MRN", "case_id", "SeriesInstanceUID", "scan_id", "volume_id"])
def test_patients_with_many_slices_stay_in_one_split(make: Make, column: str) -> None:
    rows = [f"i{i}.jpg,P{i // 30 + 1000},{i // 30 % 2}" for i in range(360)]
    catalog = open_source(make(f"image,{column},Mass", *rows))
    assert len(set(catalog.patients.tolist())) == 12
    if column not in ("patient_no",):  # which names patients itself
        assert any(f"share {column!r}" in note for note in catalog.notes)


@pytest.mark.parametrize("folder", ["LIDC-IDRI-{:04}", "ID{:09}", "volume-{}", "1.3.6.1.4.1.{}"])
def test_folders_of_patients_in_a_table_count(make: Make, folder: str) -> None:
    rows = [f"{folder.format(i // 5)}/{i % 5}.png,{i % 2}" for i in range(100)]
    assert len(set(open_source(make("image,Mass", *rows)).patients.tolist())) == 20


def test_parts_of_a_download_are_no_patients(make: Make) -> None:
    rows = [f"images_{i // 5:03}/{i}.png,{i % 2}" for i in range(100)]
    assert len(set(open_source(make("image,Mass", *rows)).patients.tolist())) == 100


def test_a_part_that_is_no_split_is_told(make: Make) -> None:
    catalog = open_source(
        make("image,dataset,Mass", *(f"i{i}.jpg,{('train', 'external')[i % 2]},{i % 3 % 2}" for i in range(40)))
    )
    assert any("'dataset' holds 'external' beside train" in note for note in catalog.notes)
