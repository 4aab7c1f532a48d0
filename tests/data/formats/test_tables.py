import csv
import io
from pathlib import Path

import pytest

from petechia.core.budget import Budget
from petechia.core.errors import PetechiaError
from petechia.data.formats import tables
from petechia.data.formats.tables import HEADER, check_header, read_table


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


@pytest.mark.parametrize("rows", ["", "\n1,2\n"])
def test_as_many_columns_as_are_allowed(tmp_path: Path, rows: str) -> None:
    check_header(write(tmp_path, ",".join(["c"] * Budget().table_columns) + rows))
    with pytest.raises(PetechiaError, match=r"t.csv has a first row that is too long"):
        check_header(write(tmp_path, ",".join(["c"] * (Budget().table_columns + 1)) + rows))


def test_a_large_table_with_a_usual_header_is_fine(tmp_path: Path) -> None:
    check_header(write(tmp_path, "a,b\n" + "1,2\n" * HEADER))
    check_header(write(tmp_path, ""))
    check_header(write(tmp_path, "a;b\n1;2\n"), ";")


@pytest.mark.parametrize("header", ["c" * (2 * HEADER), '"' + "\n" * (2 * HEADER), "a,\n".rstrip() + '"b\n' + "c," * HEADER])
def test_a_first_row_without_an_end_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(PetechiaError, match="a first row that is too long for a table"):
        check_header(write(tmp_path, header))


def test_short_rows_are_refused(tmp_path: Path) -> None:
    header, rows = "image,Mass,Edema\n", "a.png,1,\n" * 3
    for text in (header + rows + "b.png,1\n" + rows, header + rows + "b.png,1", header + rows + "b.p"):
        with pytest.raises(PetechiaError, match=r"t\.csv, row 5, has [12] cells where the header has 3, separated by ','"):
            read_table(write(tmp_path, text))
    quoted = 'image,text,Edema\na.png,"one, ""two""\nthree",\n\nb.png,"x, y"\n'
    with pytest.raises(PetechiaError, match="row 4, has 2 cells"):
        read_table(write(tmp_path, quoted))
    for text in (header + rows + "\n,,\n,\n", "image,Mass,\na.png,1\n", "image\na.png\n", quoted.replace('y"', 'y",')):
        assert read_table(write(tmp_path, text)).frame["image"][0] == "a.png"


def test_cells_are_counted_as_the_csv_module_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", 7)
    content = 'a,b,c\n"1, ""2""\n,",\n,,\n"x","y",z,\n\n"é\r\n",é'.encode()
    found = tables._widths(tables.Text(content, ["a", "b", "c"], ",", 1), '"').tolist()
    assert found == [max(len(row), 1) for row in csv.reader(io.StringIO(content.decode(), newline=""))]


def bytes_of(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "t.csv").write_bytes(content)
    return tmp_path / "t.csv"


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp932", ["ポリープ", "正常", "癌"]),
        ("gbk", ["丂", "岪", "x"]),
        ("big5", ["癌症", "正常", "息肉"]),
        ("euc-kr", ["폴립", "정상"]),
    ],
)
def test_what_is_no_western_text_is_refused(tmp_path: Path, encoding: str, names: list[str]) -> None:
    text = "image,label\n" + "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
    try:
        table = read_table(bytes_of(tmp_path, text.encode(encoding)))
    except PetechiaError as error:
        assert "line 2, has letters that are" in str(error)  # noqa: PT017
        assert "save it as CSV (UTF-8)" in str(error)  # noqa: PT017
    else:
        assert "is read as Windows-1252" in table.notes[0]
    assert read_table(bytes_of(tmp_path, text.encode())).notes == ()


def test_windows_1252_is_read_with_a_note(tmp_path: Path) -> None:
    table = read_table(bytes_of(tmp_path, "image,Größe\na.png,1\n".encode("cp1252")))
    assert table.frame.columns == ["image", "Größe"]
    assert "is not UTF-8 and is read as Windows-1252, such as 'Größe'" in table.notes[0]
    with pytest.raises(PetechiaError, match="line 3, has letters that are not UTF-8, and others of the file are"):
        read_table(bytes_of(tmp_path, "image,Größe\na.png,ß\n".encode() + "é.png,1\n".encode("cp1252")))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("image\tMass, large, left\na.png\t1\nb.png\t0\n", ["image", "Mass, large, left"]),
        ('image;"a;b";c, d, e, f\na.png;1;2\n', ["image", "a;b", "c, d, e, f"]),
        ("image,a;b;c;d\nx.png,1\n", ["image", "a;b;c;d"]),
        ("image,Mass\rx.png,1\r", ["image", "Mass"]),
    ],
)
def test_separators_and_line_ends(tmp_path: Path, text: str, columns: list[str]) -> None:
    table = read_table(bytes_of(tmp_path, text.encode()))
    assert table.frame.columns == columns
    assert table.frame["image"][0].endswith(".png")


@pytest.mark.parametrize("inches", range(1, 5))
def test_inches(tmp_path: Path, inches: int) -> None:
    cells = ['5" mass'] * inches + ["none"] * 3
    rows = "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells))
    assert read_table(write(tmp_path, f"image,label\n{rows}")).frame["label"].to_list() == cells
    if inches % 2:
        with pytest.raises(PetechiaError, match="line 3, has a quotation mark that does not enclose a cell; double it"):
            read_table(write(tmp_path, f'image,label\nq.png,"x, ""y"""\n{rows}'))
