from pathlib import Path

import pytest

from petechia.core.budget import Budget
from petechia.core.errors import PetechiaError
from petechia.data.formats.tables import HEADER, check_header


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
