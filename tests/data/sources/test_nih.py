import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data.sources.nih import CLASSES, find_images, open_nih
from tests.conftest import NihMaker

ROWS = [
    ("00000001_000.png", "Cardiomegaly", "1"),
    ("00000001_001.png", "Cardiomegaly|Effusion", "1"),
    ("00000002_000.png", "No Finding", "2"),
    ("00000003_000.png", "Pleural_Thickening|Hernia", "3"),
]


def test_the_real_sample(nih_sample: Path) -> None:
    catalog = open_nih(nih_sample)
    assert len(catalog) == 440
    assert (catalog.split == "train").sum() == 330
    assert (catalog.split == "test").sum() == 110
    assert len(set(catalog.patients)) == 288
    lines = (nih_sample / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]
    for line in lines[::37]:
        name, findings = line.split(",")[:2]
        present = {CLASSES[k] for k in np.flatnonzero(catalog.labels[list(catalog.ids).index(name)])}
        assert present == set(findings.split("|")) - {"No Finding"}


def test_labels_and_patients(make_nih: NihMaker) -> None:
    catalog = open_nih(make_nih(ROWS))
    assert catalog.classes == CLASSES
    assert catalog.labels.sum() == 5
    assert catalog.labels[1].tolist() == [0, 1, 1] + [0] * 11
    assert catalog.labels[2].sum() == 0
    assert list(catalog.patients) == ["1", "1", "2", "3"]
    images = list(catalog.reader.read(np.arange(4)))
    assert all(isinstance(image, np.ndarray) and image.shape == (16, 16) for image in images)


HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def test_the_header_of_2017_with_its_commas(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    body = [f"{n},{f},0,{p},058Y,M,PA,2682,2749,0.143,0.143," for n, f, p in ROWS]
    (root / "Data_Entry_2017.csv").write_text("\n".join([HEADER_2017, *body]))
    assert open_nih(root).labels.sum() == 5
    body = [line.rstrip(",") for line in body]
    (root / "Data_Entry_2017.csv").write_text("\n".join([HEADER_2017.rstrip(","), *body]))
    assert open_nih(root).labels.sum() == 5


def test_byte_order_mark_spaces_and_case_in_the_header(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    text = (root / "Data_Entry_2017.csv").read_text().replace("Image Index,Finding Labels", "image index, Finding labels")
    (root / "Data_Entry_2017.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert len(open_nih(root)) == 4


def test_a_table_that_a_spreadsheet_saved(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    lines = (root / "Data_Entry_2017.csv").read_text().replace(",", ";").splitlines()
    (root / "Data_Entry_2017.csv").write_text("\n".join(["sep=;", *lines[:3], ";;", *lines[3:], ";;"]), encoding="utf-16")
    assert open_nih(root).labels.sum() == 5
    (root / "Data_Entry_2017.csv").write_text("\n".join(["sep=;", *lines[:3], ";;", "x.png;Gout;9"]))
    with pytest.raises(PetechiaError, match="row 6, has an unknown finding 'Gout'"):
        open_nih(root)


def test_1_and_01_are_one_patient(make_nih: NihMaker) -> None:
    rows = [(name, findings, patient) for (name, findings, _), patient in zip(ROWS, ("1", "01", "1.0", "3"), strict=True)]
    assert open_nih(make_nih(rows)).patients.tolist() == ["1", "1", "1", "3"]


def test_near_names_are_offered(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    (root / "images" / "00000002_000.png").rename(root / "images" / "00000002_000.PNG")
    with pytest.raises(PetechiaError, match=r"'images/00000002_000.PNG' for '00000002_000.png'; rename it"):
        open_nih(root)


def test_the_newer_table_wins(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    (root / "Data_Entry_2017_v2020.csv").write_text("Image Index,Finding Labels,Patient ID\n00000002_000.png,Mass,2\n")
    assert list(open_nih(root).ids) == ["00000002_000.png"]


def test_kaggles_twelve_folders(make_nih: NihMaker) -> None:
    root = make_nih(ROWS, images="images_001/images")
    (root / "images_012" / "images").mkdir(parents=True)
    moved = root / "images_001" / "images" / "00000003_000.png"
    moved.rename(root / "images_012" / "images" / "00000003_000.png")
    catalog = open_nih(root)
    assert len(catalog) == 4
    assert sum(isinstance(image, np.ndarray) for image in catalog.reader.read(np.arange(4))) == 4


def test_official_lists_and_split_by_patient(make_nih: NihMaker) -> None:
    root = make_nih(ROWS)
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n00000002_000.png\n")
    assert set(open_nih(root).split) <= {"train", "test"}  # one list alone does not count
    (root / "test_list.txt").write_text("00000003_000.png")
    assert list(open_nih(root).split) == ["train", "train", "train", "test"]
    (root / "test_list.txt").write_text("")
    with pytest.raises(PetechiaError, match=r"1 images are neither in .*00000003_000"):
        open_nih(root)
    (root / "test_list.txt").write_text("00000003_000.png\n00000001_001.png")
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n")
    with pytest.raises(PetechiaError, match="1 patients .* are both in"):
        open_nih(root)


def test_validation_patients_are_held_out_of_training(nih_sample: Path) -> None:
    catalog = open_nih(nih_sample).hold_out(0.2)
    parts = [set(catalog.patients[catalog.split == name]) for name in ("train", "validation", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert 0.1 < len(parts[1]) / (len(parts[0]) + len(parts[1])) < 0.3


def test_missing_images_are_counted_and_named_or_skipped(make_nih: NihMaker) -> None:
    root = make_nih(ROWS, absent=["00000002_000.png", "00000001_001.png"])
    with pytest.raises(PetechiaError, match=r"2 of the 4 images .*00000001_001\.png, 00000002_000\.png; .*--missing skip"):
        open_nih(root)
    assert list(open_nih(root, missing="skip").ids) == ["00000001_000.png", "00000003_000.png"]
    nothing = make_nih(ROWS, folder="nothing", absent=[row[0] for row in ROWS])
    with pytest.raises(PetechiaError, match=r"none of the 4 images .* expected in images/"):
        open_nih(nothing, missing="skip")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("00000009_000.png", "Cardiomegaly|Gout", "9"), r"row 6, has an unknown finding 'Gout'; the findings are Atelectasis"),
        (("00000009_000.png", "Cardiomegaly||Mass", "9"), "row 6, has an empty finding"),
        (("00000009_000.png", "No Finding|Mass", "9"), "row 6, has No Finding and another finding"),
        (("00000009_000.png", "", "9"), "row 6, has an empty 'Finding Labels'"),
        (("", "Mass", "9"), "row 6, has an empty 'Image Index'"),
        (("00000009_000.png", "Mass", ""), "row 6, has an empty 'Patient ID'"),
        (("00000001_000.png", "Mass", "9"), r"row 2, occurs more than once: '00000001_000\.png' \(2 such rows\)"),
        (("../../etc/passwd", "Mass", "9"), "row 6, names a path .*'../../etc/passwd'"),
        (("images/00000001_000.png", "Mass", "9"), "row 6, names a path"),
        (("..", "Mass", "9"), "row 6, names a path"),
    ],
)
def test_bad_rows_are_named(make_nih: NihMaker, row: tuple[str, str, str], said: str) -> None:
    with pytest.raises(PetechiaError, match=said) as caught:
        open_nih(make_nih([*ROWS, row]))
    assert "Data_Entry_2017.csv" in str(caught.value)


def test_no_table_and_no_columns(make_nih: NihMaker, tmp_path: Path) -> None:
    with pytest.raises(PetechiaError, match=r"has no Data_Entry_2017\*\.csv"):
        open_nih(tmp_path)
    root = make_nih(ROWS, header="Image,Findings,Patient")
    with pytest.raises(PetechiaError, match="has no column 'Image Index'; its columns are Image"):
        open_nih(root)
    (root / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels,Patient ID\n")
    with pytest.raises(PetechiaError, match="has a header but no rows"):
        open_nih(root)
    (root / "Data_Entry_2017.csv").write_bytes(b"")
    with pytest.raises(PetechiaError, match="no header in its first row"):
        open_nih(root)


def test_links_that_lead_out_are_refused(make_nih: NihMaker, tmp_path: Path) -> None:
    root = make_nih(ROWS, absent=["00000003_000.png"])
    outside = tmp_path / "outside.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(outside)
    (root / "images" / "00000003_000.png").symlink_to(outside)
    with pytest.raises(PetechiaError, match=r"00000003_000\.png is a link that leads out"):
        open_nih(root)


@pytest.mark.parametrize("name", ["images", "Data_Entry_2017.csv", "test_list.txt"])
def test_a_table_list_or_folder_that_is_a_link_leading_out_is_refused(make_nih: NihMaker, tmp_path: Path, name: str) -> None:
    root = make_nih(ROWS)
    for part in ("train_val_list.txt", "test_list.txt"):
        (root / part).touch()
    (root / name).rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(PetechiaError, match=f"{name} is a link that leads out"):
        open_nih(root)


def test_what_is_not_a_file_is_not_an_image(make_nih: NihMaker) -> None:
    root = make_nih(ROWS, absent=["00000003_000.png", "00000002_000.png"])
    os.mkfifo(root / "images" / "00000003_000.png")
    (root / "images" / "00000002_000.png").mkdir()
    with pytest.raises(PetechiaError, match="2 of the 4 images"):
        open_nih(root)


def test_links_within_the_dataset_and_one_name_twice(make_nih: NihMaker) -> None:
    root = make_nih(ROWS, absent=["00000003_000.png"])
    (root / "images" / "00000003_000.png").symlink_to(root / "images" / "00000002_000.png")
    assert "00000003_000.png" in find_images(root)
    (root / "images_001" / "images").mkdir(parents=True)
    (root / "images_001" / "images" / "00000001_000.png").touch()
    with pytest.raises(PetechiaError, match=r"00000001_000\.png is both images/"):
        open_nih(root)
