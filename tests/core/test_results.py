import json
import math
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from petechia.core.errors import PetechiaError
from petechia.core.results import Number, Record, Result


class Part(Record):
    value: Number
    class_: str = Field(alias="class")


class Example(Result):
    file_name: ClassVar[str] = "example.json"

    name: str
    parts: tuple[Part, ...] = ()


def example(value: float = 0.5) -> Example:
    return Example(name="<b>x</b>", parts=(Part(value=value, class_="A"),))


def test_undefined_is_nan_in_python_and_null_in_files() -> None:
    content = example(math.nan).to_dict()
    assert content == {"schema": 1, "name": "<b>x</b>", "parts": [{"value": None, "class": "A"}]}
    assert math.isnan(Example.model_validate(content).parts[0].value)
    assert json.loads(example(math.inf).to_json())["parts"][0]["value"] is None


def test_a_saved_result_is_read_back_with_its_attachments_beside_it(tmp_path: Path) -> None:
    made = example()
    made.attach("note.txt", lambda: b"hello")
    assert made.attachments == ("note.txt",)
    folder = made.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"example.json", "note.txt"}
    assert (folder / "note.txt").read_bytes() == b"hello"
    assert Example.load(folder) == Example.load(folder / "example.json") == example()


def test_nothing_half_written_stays_and_nothing_is_overwritten(tmp_path: Path) -> None:
    made = example()

    def fails() -> bytes:
        raise OSError(28, "No space left on device")

    made.attach("note.txt", fails)
    with pytest.raises(OSError, match="No space left"):
        made.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(PetechiaError, match="exists already"):
        example().save(tmp_path / "there")


@pytest.mark.parametrize("content", ["", "[]", '{"name": 3}', '{"name": "x", "more": 1}', '{"name": "x", "parts": [{}]}'])
def test_a_file_that_is_none_is_refused_with_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "example.json").write_text(content)
    with pytest.raises(PetechiaError, match=r"example\.json is not a example\.json of this version"):
        Example.load(tmp_path)
    with pytest.raises(PetechiaError, match="cannot be read"):
        Example.load(tmp_path / "none.json")


def test_a_notebook_shows_text_as_text() -> None:
    assert "<b>" not in example()._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in example()._repr_html_()
    assert "name: <b>x</b>" in str(example())


def test_the_schema_describes_the_file() -> None:
    schema = Example.model_json_schema(mode="serialization")
    assert set(schema["properties"]) == set(example().to_dict())
    part = schema["$defs"]["Part"]["properties"]["value"]
    assert {one["type"] for one in part["anyOf"]} == {"number", "null"}
