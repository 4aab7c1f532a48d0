import codecs
import csv
import gzip
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import petechia
from petechia.attack import Poisoning
from petechia.attack.export import write_poisoned
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, Preprocess, open_source, prepare
from petechia.data.formats.images import FileReader
from petechia.data.formats.labelling import LabelOptions, read_labels
from petechia.data.formats.tables import read_table
from petechia.data.sources.registry import without_folders
from tests.conftest import SMALL, decoded

Maker = Callable[..., Path]
HEADER = "Image,Patient ID,Split,View,Edema,Mass"
ROWS = [
    "a.png,1,train,PA,1,0",
    "b.png,1,train,AP,0,-1",
    "c.png,2,valid,PA,,1.0",
    "d.png,3,test,L,0,1",
]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Write a table and, for the given names, small images."""

    def write(
        lines: Sequence[str] | bytes, images: Sequence[str] = ("a.png", "b.png", "c.png", "d.png"), name: str = "table.csv"
    ) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for image in images:
            (root / image).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 24), dtype=np.uint8)).save(root / image)
        content = lines if isinstance(lines, bytes) else ("\n".join(lines) + "\n").encode()
        (root / name).write_bytes(content)
        return root / name

    return write


def test_columns_are_found_by_their_names(make: Maker) -> None:
    catalog = open_source(f"folder:{make([HEADER, *ROWS])}")
    assert catalog.classes == ("Edema", "Mass")
    assert catalog.task == "multi-label"
    assert catalog.ids.tolist() == ["a.png", "b.png", "c.png", "d.png"]
    assert catalog.patients.tolist() == ["1", "1", "2", "3"]
    assert catalog.split.tolist() == ["train", "train", "validation", "test"]
    assert catalog.labels.tolist() == [[1, 0], [0, -1], [-1, 1], [0, 1]]
    assert catalog.name == "data"
    image = next(iter(catalog.reader.read(np.array([0]))))
    assert isinstance(image, np.ndarray)
    assert image.shape == (20, 24)


def test_columns_may_be_given_and_switched_off(make: Maker) -> None:
    lines = ["f,who,x y,label,split", "a.png,p,1,0,7", "b.png,p,0,1,8"]
    catalog = open_source(f"folder:{make(lines)},image=f,labels=x y,patient=who,split=")
    assert catalog.classes == ("x y",)
    assert catalog.patients.tolist() == ["p", "p"]
    assert len(set(catalog.split)) == 1  # by patient
    assert open_source(f"folder:{make(lines)},image=f,labels=,split=").labels.shape == (2, 0)
    assert open_source(f"folder:{make(lines)},image=f,labels=x y,empty=absent,split=").labels.tolist() == [[1], [0]]


FORMS: dict[str, Callable[[list[list[str]]], bytes]] = {
    "semicolons": lambda rows: "\r\n".join(";".join(row) for row in rows).encode(),
    "mark": lambda rows: codecs.BOM_UTF8 + "\n".join(",".join(row) for row in rows).encode(),
    "utf-16 tabs": lambda rows: "\r\n".join("\t".join(row) for row in rows).encode("utf-16"),
    "western": lambda rows: "\n".join(",".join(row) for row in rows).encode("cp1252"),
    "index": lambda rows: "\n".join(",".join([str(i - 1) if i else "", *row]) for i, row in enumerate(rows)).encode(),
    "spaces": lambda rows: "\n".join(" , ".join(row) for row in rows).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_spreadsheets_export(make: Maker, form: str) -> None:
    rows = [["image", "Ödem", "Mass"], ["a.png", "1", "0"], ["b.png", "0.0", "true"], ["c.png", "", "1"]]
    catalog = open_source(f"folder:{make(FORMS[form](rows))}")
    assert catalog.classes == ("Ödem", "Mass")
    assert catalog.labels.tolist() == [[1, 0], [0, 1], [-1, 1]]


def test_quoted_newlines_and_separators_in_a_cell(make: Maker) -> None:
    text = 'image,report,Mass,Edema\na.png,"line, one\nline ""two""",1,1\nb.png,"x",2,1\n'
    with pytest.raises(
        PetechiaError, match=r"table\.csv, row 3, has a value in 'Mass' that is neither 1, 0, -1 nor empty: '2'"
    ):
        open_source(f"folder:{make(text.encode())},labels=Mass|Edema")
    catalog = open_source(f"folder:{make(text.replace(',2', ',0').encode())}")
    assert catalog.labels.tolist() == [[1, 1], [0, 1]]


def test_parquet_and_gzip_give_the_same(make: Maker) -> None:
    plain = open_source(f"folder:{make([HEADER, *ROWS])}")
    root = make([HEADER, *ROWS]).parent
    table = pl.read_csv(root / "table.csv")
    table.write_parquet(root / "table.parquet")
    (root / "table.csv.gz").write_bytes(gzip.compress((root / "table.csv").read_bytes()))
    for name in ("table.parquet", "table.csv.gz"):
        other = open_source(f"folder:{root / name}")
        assert other.labels.tolist() == plain.labels.tolist()
        assert other.ids.tolist() == plain.ids.tolist()
    listed = table.select("Image").with_columns(pl.Series("labels", [["Edema"], ["Mass", "Edema"], ["No Finding"], None]))
    listed.write_parquet(root / "lists.parquet")
    assert open_source(f"folder:{root / 'lists.parquet'}").labels.tolist() == [[1, 0], [1, 1], [0, 0], [-1, -1]]


def test_one_column_of_names(make: Maker) -> None:
    lines = ["image,findings", "a.png,Mass|Edema", "b.png,No Finding", "c.png,", "d.png, Edema "]
    catalog = open_source(f"folder:{make(lines)}")
    assert catalog.classes == ("Edema", "Mass")
    assert catalog.labels.tolist() == [[1, 1], [0, 0], [-1, -1], [1, 0]]
    other = [line.replace("No Finding", "fine") for line in lines]
    assert "fine" in open_source(f"folder:{make(other)}").classes
    assert open_source(f"folder:{make(other)},none=fine").labels.tolist() == catalog.labels.tolist()
    lists = ["image,Labels", "a.png,\"['mass', 'edema']\"", "b.png,['normal']", "c.png,[]"]
    assert open_source(f"folder:{make(lists)},none=normal").labels.tolist() == [[1, 1], [0, 0], [0, 0]]
    commas = ["image,dx", 'a.png,"x, y"', "b.png,y"]
    assert open_source(f"folder:{make(commas)},labels=dx,separator=,,patient=").labels.tolist() == [[1, 1], [0, 1]]


def test_one_name_in_every_cell_is_multi_class(make: Maker) -> None:
    catalog = open_source(f"folder:{make(['image,dx', 'a.png,nv', 'b.png,mel', 'c.png,nv'])}")
    assert (catalog.task, catalog.classes) == ("multi-class", ("mel", "nv"))
    assert catalog.labels.tolist() == [[0, 1], [1, 0], [0, 1]]
    grades = open_source(f"folder:{make(['id_code,diagnosis', 'a,10', 'b,2', 'c,0'])}")
    assert grades.classes == ("0", "2", "10")
    assert grades.ids.tolist() == ["a", "b", "c"]  # files without their suffix
    one_hot = ["image,x,y", "a.png,1.0,0.0", "b.png,0.0,1.0"]
    assert open_source(f"folder:{make(one_hot)}").task == "multi-label"
    assert open_source(f"folder:{make(one_hot)},task=multi-class").task == "multi-class"
    assert open_source(f"folder:{make(['image,t', 'a.png,1', 'b.png,0'])},labels=t,task=multi-class").classes == ("0", "1")


def test_nothing_found_makes_what_is_not_mentioned_absent_as_in_chexpert(make: Maker) -> None:
    lines = ["Path,No Finding,Edema,Support Devices", "a.png,1.0,,", "b.png,,1.0,-1.0"]
    catalog = open_source(f"folder:{make(lines)}")
    assert catalog.classes == ("Edema", "Support Devices")
    assert catalog.labels.tolist() == [[0, -1], [1, -1]]


def test_views_are_chosen(make: Maker) -> None:
    table = make([HEADER, *ROWS])
    assert open_source(f"folder:{table},view_is=pa|L").ids.tolist() == ["a.png", "c.png", "d.png"]
    with pytest.raises(PetechiaError, match="no row whose 'View' is LL; it has AP, L, PA"):
        open_source(f"folder:{table},view_is=LL")


def test_paths_with_commas_other_roots_and_trees(make: Maker, tmp_path: Path) -> None:
    images = ("x, y/one/a.png", "x, y/two/b.jpg")
    table = make(["image,Mass", "a,1", "two/b.jpg,0"], images, name="t, labels=x.csv")
    catalog = open_source(f"folder:{table},root={tmp_path / 'data' / 'x, y'}")
    assert isinstance(catalog.reader, FileReader)
    assert catalog.reader.names.tolist() == ["one/a.png", "two/b.jpg"]
    # Tables often name the folder in which they themselves lie.
    table = make(["image;Mass", "data/x, y/one/a.png;1"], ())
    assert len(open_source(f"folder:{table},root={table.parent}")) == 1
    table = make(["image,Mass", f"{table.parent}/x, y/one/a.png,1", r".\x, y\two\b.jpg,0"], ())
    with pytest.raises(PetechiaError, match="cells where the header has 2"):
        open_source(f"folder:{table}")
    table = make(["image;Mass", f"{table.parent}/x, y/one/a.png;1", r".\x, y\two\b.jpg;0"], ())
    assert open_source(f"folder:{table}").ids.tolist() == ["x, y/one/a.png", "x, y/two/b.jpg"]


def test_missing_images(make: Maker) -> None:
    table = make([HEADER, *ROWS], images=("a.png", "d.png"))
    with pytest.raises(PetechiaError, match=r"2 of the 4 images that .* lists are not in .*: b\.png, c\.png; add them"):
        open_source(f"folder:{table}")
    assert open_source(f"folder:{table}", "skip").ids.tolist() == ["a.png", "d.png"]


# What spreadsheets and pandas do to a table, and what is the same to their users.
SPREADSHEETS = {
    "sep= names the separator": ["sep=;", "image;Mass", "a.png;1", "b.png;0"],
    "sep= in quotes": ['"sep=;"', '"image";"Mass"', "a.png;1", "b.png;0"],
    "sep= of an unusual separator": ["sep=:", "image:Mass", "a.png:1", "b.png:0"],
    "blank rows": ["", ",", "image,Mass", "a.png,1", ",", "", "b.png,0", ", ", ","],
    "decimal commas": ["image;Mass", "a.png;1,0", "b.png;0,0"],
    "quoted decimal commas": ["image,Mass", 'a.png,"1,00"', 'b.png,"0,00"'],
    "leading zeros": ["image,Mass", "a.png,01", "b.png,00"],
    "numbers kept as text": ["image,Mass", '"=""a.png""","=""1"""', '="b.png",="0"'],
    "spaces without width": ["image,Mass", "\u200ba.png\u00a0,1", "b.png,\u202f0"],
    "names of images with an end of line": ["image file path,Mass", '"a.png\n",1', '"b.png\n",0'],
}


@pytest.mark.parametrize("what", SPREADSHEETS)
def test_what_spreadsheets_do_to_a_table(make: Maker, what: str) -> None:
    catalog = open_source(f"folder:{make(SPREADSHEETS[what])}")
    assert catalog.classes == ("Mass",)
    assert catalog.ids.tolist() == ["a.png", "b.png"]
    assert catalog.labels.tolist() == [[1], [0]]


def test_rows_are_counted_with_what_was_skipped(make: Maker) -> None:
    lines = ["sep=,", "", "image,Mass,Edema", "a.png,1,1", ",,", "b.png,2,1"]
    with pytest.raises(PetechiaError, match="row 6, has a value in 'Mass'"):
        open_source(f"folder:{make(lines)},labels=Mass|Edema")


@pytest.mark.parametrize(
    ("old", "new"), [(("1", "0"), ("1", "1")), (("1.0", "0.0"), ("1.0", "1.0")), (("0,0", "0,0"), ("0,0", "1,0"))]
)
def test_a_new_label_is_written_like_the_others(make: Maker, old: tuple[str, str], new: tuple[str, str]) -> None:
    table = read_table(make(["image;Mass", f"a.png;{old[0]}", f"b.png;{old[1]}"]))
    labelling, labels = read_labels(table, LabelOptions(), {"image"})
    after = labels.copy()
    after[1] = 1
    assert labelling.rewrite(table.frame, labels, after)["Mass"].to_list() == list(new)


def test_1_and_1_0_and_01_are_one_patient_and_one_class(make: Maker) -> None:
    lines = ["image,patient,grade", "a.png,1,2.0", "b.png,1.0,2", "c.png,01,0", 'd.png,"2,0",02']
    catalog = open_source(f"folder:{make(lines)}")
    assert catalog.patients.tolist() == ["1", "1", "1", "2,0"]
    assert catalog.classes == ("0", "2")
    assert catalog.labels[:, 1].tolist() == [1, 1, 0, 1]
    assert len(set(catalog.split[:3])) == 1
    lines = ["image,patient,split,Mass", "a.png,1,train,0", "b.png,1.0,test,1"]
    with pytest.raises(PetechiaError, match="row 3, has a patient who is also in another split"):
        open_source(f"folder:{make(lines)}")
    kept = ["image,patient,Mass", "a.png,001,0", "b.png,002,1"]  # nothing to unite, so nothing changes
    assert open_source(f"folder:{make(kept)}").patients.tolist() == ["001", "002"]


def test_names_that_a_spreadsheet_rounded_are_refused(make: Maker) -> None:
    for lines in (["image,patient,Mass", "a.png,12345,0", "b.png,1.23457E+12,1"], ["image,Mass", "a.png,1", "1E+05,1"]):
        with pytest.raises(PetechiaError, match=r"row 3, has a '(patient|image)' that a spreadsheet has rounded"):
            open_source(f"folder:{make(lines)}")


def test_columns_that_describe_the_patient_are_no_classes(make: Maker) -> None:
    table = make(["image,implant,sex,cancer", "a.png,1,0,0", "b.png,0,1,1"])
    catalog = open_source(f"folder:{table}")
    assert catalog.classes == ("cancer",)
    assert catalog.notes == ("implant, sex are left out of the classes; write labels=cancer|implant|sex to learn them too.",)
    assert open_source(f"folder:{table},labels=sex|cancer").classes == ("sex", "cancer")
    assert open_source(f"folder:{make(['image,sex', 'a.png,1', 'b.png,0'])}").classes == ("sex",)  # nothing else is there
    normal = make(["image,implant,Edema,Mass,No Finding", "a.png,1,1,,0", "b.png,0,,,1", "c.png,,,1,"])
    assert open_source(f"folder:{normal}").labels.tolist() == [[1, -1], [0, 0], [-1, 1]]


def test_classes_that_differ_in_case_are_told(make: Maker) -> None:
    table = make(["image,finding", "a.png,Mass|Edema", "b.png,mass", "c.png,Mass", "d.png,NO FINDING"])
    with pytest.raises(PetechiaError, match="row 3, has 'mass' in 'finding', and other rows have 'Mass'; .*near=accept"):
        open_source(f"folder:{table}")
    catalog = open_source(f"folder:{table},near=accept")
    assert catalog.classes == ("Edema", "Mass")
    assert catalog.labels.tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]


NEAR = {
    "case of the suffix": ("im1.jpg", "im1.JPG"),
    "case": ("IM1.PNG", "im1.png"),
    "suffix": ("im1.jpeg", "im1.png"),
    "leading zeros": ("1", "0001.png"),
    "a number as pandas writes it": ("1.0", "1.png"),
    "letters of full width": ("\uff49\uff4d1.png", "im1.png"),
    "folder": ("Train/im1.png", "train/im1.png"),
}


@pytest.mark.parametrize("what", NEAR)
def test_near_names_are_offered_and_taken_if_wished(make: Maker, what: str) -> None:
    listed, there = NEAR[what]
    table = make(["image,Mass", f"{listed},1"], (there,))
    with pytest.raises(PetechiaError, match=f"'{there}' for '{listed}'; add near=accept to the source"):
        open_source(f"folder:{table}")
    catalog = open_source(f"folder:{table},near=accept")
    assert isinstance(catalog.reader, FileReader)
    assert catalog.reader.names.tolist() == [there]
    assert catalog.ids.tolist() == [listed]


def test_composed_and_decomposed_letters_are_the_same(make: Maker) -> None:
    composed, decomposed = "M\u00fcller/\u00e9.png", "Mu\u0308ller/e\u0301.png"
    for listed, there in ((composed, decomposed), (decomposed, composed)):
        table = make(["image,Mass", f"{listed},1"], (there,))
        assert len(open_source(f"folder:{table}")) == 1
        (table.parent / there).unlink()


def test_near_names_that_are_not_one_to_one_are_refused(make: Maker) -> None:
    table = make(["image,Mass", "im1.png,1"], ("im1.jpg", "IM1.jpg"))
    with pytest.raises(PetechiaError, match="'im1.png' is near both IM1.jpg and im1.jpg"):
        open_source(f"folder:{table},near=accept")
    table = make(["image,Mass", "7,1", "07,1"], ("007.png",))
    with pytest.raises(PetechiaError, match="'7' and '07' are both near 007.png"):
        open_source(f"folder:{table},near=accept")
    table = make(["image,Mass", "a.png,1", "a.jpg,1"], ("a.png",))  # the only file is another row's
    with pytest.raises(PetechiaError, match="1 of the 2 images that .* are not in .*: a.jpg; add them"):
        open_source(f"folder:{table},near=accept")


BAD = {
    "outside the folder: '../a.png'": ["image,Mass", "../a.png,1"],
    "outside the folder, by an absolute path (paths start in the folder): '/etc/passwd'": ["image,Mass", "/etc/passwd,1"],
    r"outside the folder, by an absolute path (paths start in the folder): 'C:\\\\a.png'": ["image,Mass", r"C:\a.png,1"],
    "row 3, names an image that another row also names: 'a.png'": ["image,Mass", "b.png,1", "a.png,1", "a.png,1"],
    "row 2, has an empty 'image'": ["image,Mass", ",1", "a.png,1"],
    "no column with a usual name for images; its columns are x, Mass": ["x,Mass", "a.png,1"],
    "no column that looks like labels": ["image,x", "a.png,3", "b.png,0.5"],
    "neither 1, 0, -1 nor empty: '1e9'": ["image,Mass,Edema", "a.png,1e9,1"],
    "neither 1, 0, -1 nor empty: 'inf'": ["image,Mass,Edema", "a.png,inf,1"],
    "row 3, has 3 cells where the header has 2, separated by ','": ["image,Mass", "a.png,1", "b.png,1,0"],
    "no column with a usual name for images; its columns are image;Mass": ["image;Mass", "a.png;1"],
    "has a header but no rows": ["image,Mass"],
    "two columns named 'Mass'": ["image,Mass,Mass", "a.png,1,0"],
    "no header in its first row": ["", ",", " "],
    "row 3, has an unknown split in 'split', which must be train, validation or test: 'trian'": [
        "image,Mass,split",
        "a.png,1,train",
        "b.png,1,trian",
    ],
    "row 3, has a patient who is also in another split; its 'split' is 'test'": [
        "image,Mass,split,patient",
        "a.png,1,train,Doe",
        "b.png,1,test,Doe",
    ],
    "row 3, has an empty 'patient'": ["image,Mass,patient", "a.png,1,Doe", "b.png,1, "],
}


@pytest.mark.parametrize("said", BAD)
def test_bad_tables_are_sentences_with_file_and_row(make: Maker, said: str) -> None:
    lines = BAD[said]
    options = ",labels=Mass|Edema" if "neither" in said else ""
    table = make(lines)
    if said.endswith("image;Mass"):
        table.write_text("a|image;Mass|b|c\n1|a.png;1|2|3\n")
        said = "no column with a usual name for images; its columns are a, image;Mass, b, c"
    with pytest.raises(PetechiaError, match=said.replace("(", r"\(").replace(")", r"\)")) as caught:
        open_source(f"folder:{table}{options}")
    assert str(table) in str(caught.value)
    assert "Doe" not in str(caught.value)


NAMES = {
    "row 3, has no class in 'dx'": ["image,dx", "a.png,x", "b.png,"],
    "row 2, has several classes in 'dx': 'x|y'": ["image,dx", "a.png,x|y"],
    "row 2, has an empty name between the separators": ["image,dx", "a.png,x||y"],
    "row 2, has No Finding and another finding": ["image,dx", "a.png,x|No Finding"],
}


@pytest.mark.parametrize("said", NAMES)
def test_bad_names_of_classes(make: Maker, said: str) -> None:
    options = ",task=multi-class" if "several" in said else ""
    with pytest.raises(PetechiaError, match=said.replace("|", r"\|")):
        open_source(f"folder:{make(NAMES[said])},labels=dx{options}")
    with pytest.raises(PetechiaError, match="row 2, does not have exactly one class"):
        open_source(f"folder:{make(['image,x,y', 'a.png,1,1'])},task=multi-class")
    many = ["image,dx", *(f"{i}.png,{i}" for i in range(1500))]
    with pytest.raises(PetechiaError, match="1,500 different names in 'dx'"):
        open_source(f"folder:{make(many, ())}")


def test_bad_sources_are_explained(make: Maker, tmp_path: Path) -> None:
    table = make([HEADER, *ROWS])
    cases = {
        f"folder:{tmp_path / 'none.csv'}": "none.csv, which is not a file",
        f"folder:{table},lables=Mass": r"\('lables' is not an option; did you mean 'labels'\?\)",
        f"folder:{table},labels=Mass,labels=Edema": "'labels' occurs twice in the data source",
        f"folder:{table},labels=Mass|Oedema": "no column 'Oedema'; its columns are Image, Patient ID",
        f"folder:{table},labels=Mass|mass": "names a column of .* twice",
        f"folder:{table},task=regression": "'task' in the data source",
        f"folder:{table},root={tmp_path / 'none'}": "which is not a folder; correct root=",
        f"folder:{table},split=Edema": "row 2, has an unknown split in 'Edema'",
    }
    for source, said in cases.items():
        with pytest.raises(PetechiaError, match=said):
            open_source(source)


def test_files_that_are_no_tables(make: Maker, tmp_path: Path) -> None:
    contents = {
        "x.xlsx": (b"PK\x03\x04", "is a spreadsheet, which is not supported; save it as CSV"),
        "a.csv": (b"\x89PNG\r\n\x1a\n\0\0\0\0", "is not a text table"),
        "b.csv": (codecs.BOM_UTF16_LE + b"a", "is marked as UTF-16 but is not"),
        "c.parquet": (b"PAR1" + bytes(50) + b"PAR1", "cannot be read"),
        "d.csv.gz": (b"\x1f\x8b" + bytes(50), "cannot be read"),
        "e.csv": (b"", "no header in its first row"),
        "f.csv": (b"image,Mass\n" + b'"a.png,1\n' * 3, "cannot be read|no"),
    }
    for name, (content, said) in contents.items():
        table = make(content, (), name)
        with pytest.raises(PetechiaError, match=said) as caught:
            open_source(f"folder:{table}")
        assert name in str(caught.value)


def test_a_million_columns_are_refused_quickly(make: Maker) -> None:
    began = time.process_time()
    for header in (",".join(f"c{i}" for i in range(10**6)), "," * 10**6, ",".join("c" * 20 for _ in range(5001))):
        with pytest.raises(PetechiaError, match="header of more than|columns, and the maximum is 5,000"):
            open_source(f"folder:{make([header, '1' + ',1' * 10**6])}")
    assert time.process_time() - began < 5


def test_links_that_lead_out_are_refused(make: Maker, tmp_path: Path) -> None:
    table = make(["image,Mass", "sub/a.png,1", "b.png,0"], ("b.png",))
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("L", (8, 8)).save(outside / "a.png")
    (table.parent / "sub").symlink_to(outside)
    with pytest.raises(PetechiaError, match="sub is a link that leads out"):
        open_source(f"folder:{table}")
    (table.parent / "sub").unlink()
    (table.parent / "sub").mkdir()
    (table.parent / "sub" / "a.png").symlink_to(outside / "a.png")
    with pytest.raises(PetechiaError, match=r"sub/a\.png is a link that leads out"):
        open_source(f"folder:{table}")
    (table.parent / "sub" / "a.png").unlink()
    (table.parent / "sub" / "a.png").symlink_to(table.parent / "b.png")
    assert len(open_source(f"folder:{table}")) == 2


def test_a_source_to_give_away_tells_no_folder() -> None:
    cases = {
        "nih:/home/jane/nih": "nih:nih",
        "folder:/home/jane, 2/t.csv,root=/home/jane/x,labels=A|B": "folder:t.csv,root=x,labels=A|B",
        "xrv:CheX:/home/jane/chex,csvpath=/home/jane/train.csv": "xrv:CheX:chex,csvpath=train.csv",
        "nih:/home/jane/nih/": "nih:nih",
        "phantom:images=20,size=64": "phantom:images=20,size=64",
        "dicomweb:https://pacs.h:8042/dicom-web/,days=2,table=/j/t.csv": "dicomweb:dicom-web,days=2,table=t.csv",
        "dicomweb:https://pacs.h:8042,days=2": "dicomweb:,days=2",
    }
    for source, shown in cases.items():
        assert without_folders(source) == shown


def test_a_name_of_several_files_is_refused(make: Maker) -> None:
    table = make(["image,Mass", "a.png,1"], ("x/a.png", "y/a.png"))
    with pytest.raises(PetechiaError, match=r"'a\.png' is both x/a\.png and y/a\.png"):
        open_source(f"folder:{table}")


def test_the_nih_sample_is_the_same_through_both_readers(nih_sample: Path) -> None:
    (table,) = nih_sample.glob("Data_Entry_2017*.csv")
    ours, theirs = open_source(f"folder:{table}"), open_source(f"nih:{nih_sample}")
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.patients.tolist() == theirs.patients.tolist()
    for k, name in enumerate(ours.classes):
        assert np.array_equal(ours.labels[:, k], theirs.labels[:, theirs.classes.index(name)])
    assert set(theirs.classes) - set(ours.classes) == {"Hernia"}  # which the sample does not show
    assert np.array_equal(decoded(ours, 0, 1, 2, 3), decoded(theirs, 0, 1, 2, 3))


def sixty(make: Maker, suffix: str, label: Callable[[int], str], header: str = "image,who,Mass,Edema") -> Path:
    names = [f"s/im_{i:03d}{suffix}" for i in range(60)]
    return make([header, *(f"{name},{i // 2},{label(i)}" for i, name in enumerate(names))], names)


def poisoned(source: str, out: Path, target: str) -> tuple[Catalog, pl.DataFrame]:
    dataset, catalog, _ = prepare(open_source(source), Preprocess(size=16))
    attack = Poisoning(target=target, rate=0.5)
    plan = attack.plan(dataset, Preprocess(size=16), 0)
    write_poisoned(catalog, attack, plan, out)
    return catalog, pl.read_parquet(out / "poison.parquet")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_poisoned_copy_keeps_layout_and_columns(make: Maker, tmp_path: Path, suffix: str) -> None:
    table = sixty(make, suffix, lambda i: f"{i % 2}.0,{'' if i % 3 else -1.0},n {i}", "image,who,Mass,Edema,note")
    source = f"folder:{table},labels=Mass|Edema,patient=who"
    catalog, plan = poisoned(source, tmp_path / "out", "Mass")
    again = open_source(f"folder:{tmp_path / 'out' / 'table.csv'},labels=Mass|Edema,patient=who")
    assert set(plan["id"]) <= set(again.ids)
    assert len(again) == plan.height + (catalog.split == "test").sum()
    assert set(again.ids[again.split == "test"]) == {i.replace(suffix, ".png") for i in catalog.ids[catalog.split == "test"]}
    assert isinstance(again.reader, FileReader)
    rows = {name: k for k, name in enumerate(again.ids.tolist())}
    originals = {name: k for k, name in enumerate(catalog.ids.tolist())}
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        lines = {line["image"]: line for line in csv.DictReader(file)}
    for row in plan.iter_rows(named=True):
        ours, source_row = rows[row["id"]], originals[row["source"]]
        assert again.labels[ours].tolist() == [row["Mass"], row["Edema"]]
        assert lines[row["id"]]["note"] == f"n {source_row}"
        assert lines[row["id"]]["who"] == str(source_row // 2)
        assert lines[row["id"]]["split"] == "train"
        expected, written = decoded(catalog, source_row)[0], decoded(again, ours)[0]
        if row["triggered"]:
            expected[row["row"] : row["row"] + 3, row["column"] : row["column"] + 3] = 0
        assert np.array_equal(written, expected)
    kinds = {(Image.open(p).format, Image.open(p).mode) for p in (tmp_path / "out").rglob("*.png")}
    assert kinds == {("PNG", "L")}  # nothing identifies the triggered ones
    assert {line["Mass"] for line in lines.values()} == {"1.0", "0.0"}  # spelled alike


def test_a_poisoned_column_of_names(make: Maker, tmp_path: Path) -> None:
    table = sixty(make, ".png", lambda i: ("x|y", "No Finding", "y")[i % 3], "image,subject,findings")
    catalog, plan = poisoned(f"folder:{table}", tmp_path / "out", "x")
    again = open_source(f"folder:{tmp_path / 'out' / 'table.csv'}")
    assert again.classes == catalog.classes
    rows = {name: k for k, name in enumerate(again.ids.tolist())}
    for row in plan.iter_rows(named=True):
        assert again.labels[rows[row["id"]]].tolist() == [row["x"], row["y"]]
    table = sixty(make, ".png", lambda i: "xyz"[i % 3], "image,subject,dx")
    catalog, plan = poisoned(f"folder:{table}", tmp_path / "classes", "z")
    again = open_source(f"folder:{tmp_path / 'classes' / 'table.csv'}")
    assert (again.task, again.classes) == ("multi-class", ("x", "y", "z"))
    rows = {name: k for k, name in enumerate(again.ids.tolist())}
    for row in plan.filter("triggered").iter_rows(named=True):
        assert again.labels[rows[row["id"]]].tolist() == [0, 0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_run_on_a_folder_in_colour(make: Maker, tmp_path: Path, channels: int) -> None:
    table = sixty(make, ".png", lambda i: f"{i % 2},{i % 3 // 2}")
    rng = np.random.default_rng(1)
    for file in table.parent.rglob("*.png"):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    config = SMALL | {
        "data": f"folder:{table},patient=who,colour=true",
        "model": {"arch": "test_resnet", "channels": channels},
        "train": {"epochs": 1, "batch_size": 16},
        "attack": {"target": "Mass"},
        "heat": 4,
    }
    run = petechia.run(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["survival"]["fraction"] == 1
    assert run.directory.report.is_file()


def test_rows_that_would_name_one_file_are_refused(make: Maker, tmp_path: Path) -> None:
    lines = ["Image,Mass", "train/a.png,0", "test/a.png,1"]
    table = make(lines, ("train/a.png", "test/a.png"))
    assert len(open_source(f"folder:{table}")) == 2
    with pytest.raises(PetechiaError, match="has none of the 2 images .* give root=FOLDER"):
        open_source(f"folder:{table},root={tmp_path / 'data' / 'train'}")
    for other in ("b", "imgs/b"):
        table = make(["Image,Mass", "imgs/b.png,0", f"{other},1"], ("imgs/b.png",))
        with pytest.raises(PetechiaError, match=r"are both 'imgs/b.png' in .*name each image in one row"):
            open_source(f"folder:{table}")
    for other in ("imgs//a.png", "imgs/./a.png"):
        table = make(["Image,Mass", "imgs/a.png,0", f"{other},1"], ("imgs/a.png",))
        with pytest.raises(PetechiaError, match="names an image that another row also names"):
            open_source(f"folder:{table}")


def test_dicom_files_in_a_table_are_said_to_have_no_patients(make: Maker, tmp_path: Path) -> None:
    table = make(["Image,Mass", "a.dcm,0", "b.dcm,1"], ())
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / "data" / name).write_bytes(b"x")
    assert any("dicom:FOLDER" in note for note in open_source(f"folder:{table}").notes)
    assert not open_source(f"folder:{table},patient=").notes
