from __future__ import annotations

import base64
import json
import math
import pickle
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from petechia.core.errors import PetechiaError
from petechia.data.preprocess import Box
from petechia.detect.screen.files import picture
from petechia.detect.screen.result import BoxRecord, ScreenedImage, ScreenResult, TriggerPixel

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def screened(name: str, suspicion: float, flagged: bool) -> ScreenedImage:
    return ScreenedImage(
        id=name,
        suspicion=suspicion,
        p_value=0.02 if flagged else 0.7,
        flagged=flagged,
        class_="Mass <b>",
        extent="part",
        box=BoxRecord(top=3, left=4, height=2, width=5),
        box_in_file=BoxRecord(top=30, left=40, height=20, width=50),
        pixels=(TriggerPixel(row=3, column=4, value=0), TriggerPixel(row=4, column=8, value=(1, 2, 3))),
        parts={"removal": suspicion / 2, "strip": math.nan},
    )


@pytest.fixture
def result() -> ScreenResult:
    found = ScreenResult(
        model="model.safetensors",
        black_box=False,
        clean_images=40,
        false_positive_rate=0.025,
        threshold=1.5,
        groups={"part": ("removal",), "whole": ("strip",)},
        flagged=2,
        warnings=("The clean images are <few>.",),
        images=(screened("a.png", 1 / 3, False), screened("<script>.png", 9.0, True), screened("c.png", 2.0, True)),
    )
    found.attach_pictures(IMAGES)
    return found


def test_what_is_saved_is_read_again(result: ScreenResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == ["2.png", "3.png", "screen.csv", "screen.json"]
    again = ScreenResult.load(folder)
    assert again.to_dict() == result.to_dict() == json.loads((folder / "screen.json").read_text())
    assert again.images[1].pixels == result.images[1].pixels
    assert math.isnan(again.images[0].parts["strip"])
    assert again.save(tmp_path / "again").joinpath("screen.csv").read_bytes() == (folder / "screen.csv").read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "3.png")), picture(IMAGES[2], Box(3, 4, 2, 5)))


def test_the_file_has_the_keys_of_version_3(result: ScreenResult) -> None:
    content = result.to_dict()
    assert list(content) == [
        *("schema", "model", "black_box", "clean_images", "false_positive_rate", "threshold", "groups", "flagged"),
        *("warnings", "limits", "images", "not_read", "clean_not_read"),
    ]
    assert content["schema"] == 3
    one = content["images"][0]
    assert list(one) == ["id", "suspicion", "p_value", "flagged", "class", "extent", "box", "box_in_file", "pixels", "parts"]
    assert one["box"] == {"top": 3, "left": 4, "height": 2, "width": 5}
    assert one["pixels"] == [{"row": 3, "column": 4, "value": 0}, {"row": 4, "column": 8, "value": [1, 2, 3]}]
    assert one["parts"]["strip"] is None


def test_the_json_schema_describes_the_file(result: ScreenResult) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema, content = ScreenResult.model_json_schema(mode="serialization"), result.to_dict()
    jsonschema.validate(content, schema)
    for broken in (
        content | {"threshold": "high"},
        content | {"more": 1},
        content | {"images": [{name: value for name, value in content["images"][0].items() if name != "class"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
    assert set(schema["properties"]) == set(content)
    assert set(schema["$defs"]["ScreenedImage"]["properties"]) == set(content["images"][0])


def test_findings_say_the_same(result: ScreenResult) -> None:
    clean, worst, third = result.findings
    assert [one.about for one in result.findings] == ["a.png", "<script>.png", "c.png"]
    assert {one.kind for one in result.findings} == {"image"}
    assert (worst.score, worst.p_value, worst.threshold, worst.false_positive_rate) == (9.0, 0.02, 1.5, 0.025)
    assert [one.flagged for one in result.findings] == [False, True, True]
    assert worst.evidence["box"] == {"top": 30, "left": 40, "height": 20, "width": 50}
    assert worst.evidence["class"] == "Mass <b>"
    assert third.evidence["parts"]["removal"] == 1.0
    assert "20 x 50 pixels at row 30, column 40" in worst.reason
    assert clean.reason == ""


def test_a_trigger_over_the_whole_image_is_said_to_be_one(result: ScreenResult, tmp_path: Path) -> None:
    over_all = result.images[1].model_copy(update={"extent": "whole", "box": BoxRecord(top=0, left=0, height=32, width=32)})
    found = result.model_copy(update={"images": (result.images[0], over_all, result.images[2])})
    assert "all over the image" in found.findings[1].reason
    found.attach_pictures(IMAGES)
    shown = np.asarray(Image.open(found.save(tmp_path / "out") / "2.png"))
    np.testing.assert_array_equal(shown, picture(IMAGES[1], None))
    assert not np.array_equal(shown[:, :512], shown[:, 512:])


def test_the_table_has_a_row_for_each_image(result: ScreenResult) -> None:
    table = result.table
    assert table.columns == [
        *("id", "suspicion", "p_value", "flagged", "class", "extent", "top", "left", "height", "width"),
        *("file_top", "file_left", "file_height", "file_width", "removal", "strip"),
    ]
    assert table["suspicion"].to_list() == [1 / 3, 9.0, 2.0]
    assert table["file_width"].to_list() == [50, 50, 50]
    assert table["strip"].dtype == pl.Float64


def test_a_notebook_shows_rows_and_pictures_and_no_foreign_markup(result: ScreenResult) -> None:
    shown = result._repr_html_()
    assert "<script>" not in shown
    assert "<few>" not in shown
    assert "Mass <b>" not in shown
    assert "Mass &lt;b&gt;" in shown
    assert shown.index("&lt;script&gt;.png") < shown.index("c.png") < shown.index("a.png")  # the most suspicious first
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert [base64.b64decode(one)[:8] for one in pictures] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert "2 of 3 images" in str(result)
    assert "2.5 %" in str(result)


def test_a_loaded_result_shows_no_pictures(result: ScreenResult, tmp_path: Path) -> None:
    again = ScreenResult.load(result.save(tmp_path / "out"))
    assert again.attachments == ("screen.csv",)
    assert "<img" not in again._repr_html_()


def test_a_result_can_be_sent_to_another_process(result: ScreenResult, tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(result))  # noqa: S301
    assert again.attachments == result.attachments
    again.save(tmp_path / "out")
    assert (tmp_path / "out" / "2.png").stat().st_size > 100


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "screen.json").write_text('{"schema": 2, "model": "m"}')
    with pytest.raises(PetechiaError, match="is not a screen.json of this version"):
        ScreenResult.load(tmp_path)
