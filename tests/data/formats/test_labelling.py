from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from petechia.core.errors import PetechiaError
from petechia.data.formats.labelling import Labelling, LabelOptions, find_column, read_labels, read_split, with_split
from petechia.data.formats.tables import Table, read_table


def table_of(**columns: Sequence[str | None]) -> Table:
    count = len(next(iter(columns.values())))
    frame = pl.DataFrame({"image": [f"{i}.png" for i in range(count)], **columns})
    return Table(Path("t.csv"), frame, np.arange(count) + 2)


def read(table: Table, **options: str) -> tuple[Labelling, list[list[int]]]:
    labelling, labels = read_labels(table, LabelOptions.model_validate(options), {"image"})
    return labelling, labels.tolist()


MASS = ["0", "1"] * 5
ODD = ["x", "=", "-", "u", "2", "0.5", "None"]


@pytest.mark.parametrize("cell", ODD)
def test_one_odd_cell_does_not_drop_a_class(cell: str) -> None:
    odd = [*MASS[:4], cell, *MASS[5:]]
    with pytest.raises(PetechiaError, match=r"row 6, has a cell in 'Edema' that is no label.*labels=Mass\)") as caught:
        read(table_of(Mass=MASS, Edema=odd))
    assert repr(cell) in str(caught.value)
    with pytest.raises(PetechiaError, match=r"row 6, has a cell in 'Edema' that is no label.*labels=A\|B\)"):
        read(table_of(Edema=odd))


@pytest.mark.parametrize("cell", ["NA", "n/a", "#N/A", "<NA>", "NaN", "null", "unknown", "?", "", None])
def test_an_unknown_cell_does_not_drop_a_class(cell: str | None) -> None:
    labelling, labels = read(table_of(Mass=MASS, Edema=[*MASS[:4], cell, *MASS[5:]]))
    assert labelling.classes == ("Mass", "Edema")
    assert [row[1] for row in labels] == [0, 1, 0, 1, -1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "words", ["no yes", "F T", "N Y", "FALSCH WAHR", "FAUX VRAI", "0% 100%", "negative Positive", "nein ja"]
)
def test_words_are_labels(words: str) -> None:
    labelling, labels = read(table_of(Mass=MASS, Edema=words.split() * 5))
    assert labelling.classes == ("Mass", "Edema")
    assert labels == [[0, 0], [1, 1]] * 5


def test_columns_of_something_else_are_left_out() -> None:
    eyes = ["1", "2", "1"] * 4
    labelling, _ = read(
        table_of(Mass=["0", "1"] * 6, eye=eyes, letter=list("FFM") * 4, all_f=list("FFF") * 4, age=list("3456") * 3)
    )
    assert labelling.classes == ("Mass",)
    assert labelling.notes == (
        "'eye' is left out of the classes, because some of its cells are no labels, such as '2' in row 3; "
        "correct them if it is a class.",
    )


VECTORS = {
    "Python": ["[0, 1, 0]", "[1, 0, 0]"],
    "NumPy": ["[0 1 0]", "[1 0 0]"],
    "NumPy, floats": ["[0. 1.]", "[1. 0.]"],
    "truths": ["[True, False]", "[False, True]"],
    "torch": ["tensor([0, 1])", "tensor([1, 0])"],
    "bars": ["0|1|0", "1|0|0"],
    "spaces": ["0 1 0", "0 0 1"],
    "shares": ["[0.2, 0.8]", "[0.4, 0.6]"],
}


@pytest.mark.parametrize("form", VECTORS)
def test_vectors_are_refused(form: str) -> None:
    with pytest.raises(PetechiaError, match=r"row 2, has a vector in 'labels', which names no class.*\(2 such rows\)"):
        read(table_of(labels=VECTORS[form]))


LISTS = {
    "Python": ["['Mass, left', \"Crohn's\"]", "[]", '["Crohn\'s"]'],
    "NumPy": ["['Mass, left' \"Crohn's\"]", "[]", '["Crohn\'s"]'],
    "tuples": ["('Mass, left', \"Crohn's\")", "()", '("Crohn\'s",)'],
    "sets": ["{'Mass, left', \"Crohn's\"}", "{}", '{"Crohn\'s"}'],
    "JSON": ['["Mass, left","Crohn\'s"]', "[]", '["Crohn\'s"]'],
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_and_written(form: str) -> None:
    table = table_of(labels=LISTS[form])
    labelling, labels = read(table)
    assert labelling.classes == ("Crohn's", "Mass, left")
    assert labels == [[1, 1], [0, 0], [1, 0]]
    after = np.array([[0, 1], [1, 1], [1, 0]], np.int8)
    written = labelling.rewrite(table.frame, np.array(labels, np.int8), after)
    assert read(table._replace(frame=written))[1] == after.tolist()


def test_lists_of_numbers_of_classes_and_grades_are_no_vectors() -> None:
    assert read(table_of(labels=["[3, 5]", "[5]", "[0, 7]"]))[0].classes == ("0", "3", "5", "7")
    assert read(table_of(labels=["2|3", "3|4"]))[0].classes == ("2", "3", "4")
    assert read(table_of(labels=["0,5", "1,0", "2,0"]))[0].classes == ("0,5", "1,0", "2,0")


def test_lists_beside_other_cells() -> None:
    with pytest.raises(PetechiaError, match="row 4, has no list in 'labels', as other rows have: 'Mass'"):
        read(table_of(labels=["['Mass']", "['Edema']", "Mass"]))
    with pytest.raises(PetechiaError, match="row 2, has a list in 'labels', as other rows have not"):
        read(table_of(labels=["['Mass']", "Edema", "Mass"]))
    with pytest.raises(PetechiaError, match="row 2, has a list in 'labels' that cannot be read"):
        read(table_of(labels=["['Mass', nan]", "['Edema']"]))
    assert read(table_of(labels=["[other]", "Edema", "Mass"]))[0].classes == ("Edema", "Mass", "[other]")


def test_several_names_in_a_cell_are_told() -> None:
    for mark in ",/+":
        with pytest.raises(PetechiaError, match=rf"row 4, has 'Mass\{mark} Edema' .* add separator=\{mark} to the source"):
            read(table_of(labels=["Mass", "Edema", f"Mass{mark} Edema"]))
    cells = ["Mass", "Edema", "Mass, Edema"]
    assert read(table_of(labels=cells), labels="labels", separator=",")[1] == [[0, 1], [1, 0], [1, 1]]
    assert len(read(table_of(labels=cells), labels="labels", separator="|")[0].classes) == 3
    with pytest.raises(PetechiaError, match=r"write '\|' between its names"):
        read(table_of(labels=["Mass|Edema", "Mass;Edema"]))
    assert read(table_of(labels=["Pneumonia, viral", "Pneumonia"]))[0].classes == ("Pneumonia", "Pneumonia, viral")


def test_classes_that_differ_in_an_underscore_are_told() -> None:
    cells = ["Pleural_Effusion", "Pleural Effusion", "Pleural_Effusion", "-1", "1"]
    with pytest.raises(PetechiaError, match="row 3, has 'Pleural Effusion' in 'label', and other rows have 'Pleural_Effusion'"):
        read(table_of(label=cells))
    assert read(table_of(label=cells), near="accept")[0].classes == ("-1", "1", "Pleural_Effusion")


def test_a_column_of_splits_is_the_split_whatever_its_name() -> None:
    table = table_of(Mass=["0", "1", "0"], Dataset_type=["TRAIN", "TEST", "dev"])
    options = with_split(table, LabelOptions())
    assert read_split(table, options, np.array(["a", "b", "c"])).tolist() == ["train", "test", "validation"]
    assert with_split(table, LabelOptions(split="")).split == ""
    assert with_split(table_of(Mass=["0", "1"], Set=["train", "train"]), LabelOptions()).split is None
    with pytest.raises(PetechiaError, match="has splits in fold1, fold2; name one with split=COLUMN"):
        with_split(table_of(fold1=["train", "test"], fold2=["test", "train"]), LabelOptions())


@pytest.mark.parametrize("name", ["is_test", "IsTrain", "testset", "test", "in_training_set", "validation"])
def test_flags_of_the_split_are_no_classes(name: str) -> None:
    labelling, _ = read(table_of(Mass=MASS, **{name: MASS}))
    assert labelling.classes == ("Mass",)
    assert "the split is not read from them; write a column with train and test" in labelling.notes[0]


def test_composed_and_decomposed_names_of_columns_are_the_same() -> None:
    table = table_of(**{"E\u0301panchement": ["0", "1"]})
    assert find_column(table, "\u00e9panchement", ()) == "E\u0301panchement"


def test_nested_columns_of_parquet_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    nested = pl.DataFrame({"image": [{"path": "a"}] * 2, "name": ["a", "b"]})
    nested.write_parquet(path)
    with pytest.raises(PetechiaError, match=r"has a column 'image' that is nested.*its columns are name \(and image, nested"):
        find_column(read_table(path), None, ("image",))
    assert find_column(read_table(path), None, ("image", "name")) == "name"
    nested.select("image").write_parquet(path)
    with pytest.raises(PetechiaError, match=r"t\.parquet has only nested columns"):
        read_table(path)


def test_lists_of_parquet_are_as_those_of_text(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"image": ["a", "b", "c"], "labels": [["x", "y"], [], None]}).write_parquet(path)
    assert read(read_table(path))[1] == [[1, 1], [0, 0], [-1, -1]]
    pl.DataFrame({"image": ["a", "b"], "labels": [[0, 1, 0], [1, 0, 0]]}).write_parquet(path)
    with pytest.raises(PetechiaError, match="row 1, has a vector in 'labels'"):
        read(read_table(path))


def test_a_usual_column_that_hides_columns_of_0_and_1_is_told() -> None:
    table = table_of(grade=["1", "2", "3", "1", "2"] * 2, Mass=MASS, Nodule=MASS, age=["40"] * 10)
    labelling, _ = read(table)
    assert labelling.classes == ("1", "2", "3")
    assert any("read from 'grade', and Mass, Nodule" in note and "labels=Mass|Nodule" in note for note in labelling.notes)
    assert not read(table_of(label=["a", "b"] * 5, Mass=MASS))[0].notes  # one column may be anything


def test_labels_without_any_0_are_told() -> None:
    (note,) = read(table_of(Mass=["-1", "1"] * 5))[0].notes
    assert "No label says that a class is absent" in note
    assert not read(table_of(Mass=["-1", "1"] * 4 + ["0", "1"]))[0].notes


@pytest.mark.parametrize("mark", ["\n", "\t", " and ", " - ", ":", "\u3001", "\uff0c", "\\"])
def test_names_between_other_marks_are_asked_about(mark: str) -> None:
    table = table_of(labels=["Mass", "Nodule", f"Mass{mark}Nodule", "Mass", "Nodule"])
    with pytest.raises(
        PetechiaError, match="row 4, has .* in 'labels', and other rows have its parts; (add separator=|write a bar)"
    ):
        read(table)


def test_a_space_stands_between_numbers_alone() -> None:
    assert read(table_of(labels=["Pleural", "Effusion", "Pleural Effusion"]))[0].classes == (
        "Effusion",
        "Pleural",
        "Pleural Effusion",
    )
    with pytest.raises(PetechiaError, match="has '5 0' in 'labels'"):
        read(table_of(labels=["5", "0", "5 0"]))


def test_a_separator_at_the_end_is_no_empty_name() -> None:
    labelling, labels = read(table_of(labels=["Mass;Nodule;", "Mass;", "Nodule"]))
    assert labelling.classes == ("Mass", "Nodule")
    assert labels == [[1, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("cells", "split"),
    [
        (("Train set", "Test set"), ("train", "test")),
        (("training_set", "test_set"), ("train", "test")),
        (("trainval", "test"), ("train", "test")),
        (("train-val", "holdout"), ("train", "test")),
        (("train data", "validation_data"), ("train", "validation")),
    ],
)
def test_splits_in_more_words(cells: tuple[str, str], split: tuple[str, str]) -> None:
    table = table_of(dataset=list(cells) * 5, Mass=MASS)
    options = with_split(table, LabelOptions())
    assert options.split == "dataset"
    patients = np.array([str(row) for row in range(10)])
    assert read_split(table, options, patients).tolist() == list(split) * 5
