import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import petechia
from petechia.core.errors import PetechiaError
from petechia.reports import build_report, result_rows, verdict
from petechia.reports.figures import magnified_difference
from petechia.reports.tables import heat_rows
from petechia.study import Run
from petechia.study.heat import Shown, read_heat
from tests.conftest import SMALL, NihMaker


class Tags(HTMLParser):
    """Collects tags and checks that they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_needs_nothing_else(finished: Run) -> None:
    html = finished.directory.report.read_text()
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    assert "script" not in tags.seen
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", html)
    assert not re.findall(r"url\((?!data:)", html)
    assert len(tags.images) == 3 + 3 * 4 + len(heat_pictures(finished))
    assert all(image["alt"] for image in tags.images)


def heat_pictures(run: Run) -> list[Shown | str]:
    """The curves, the classes, and a strip for each image that is shown."""
    heat = read_heat(run.directory)
    assert heat is not None
    return ["curves", "classes", *(one for shown in heat.shown.values() for one in shown)]


def test_the_heat_is_in_the_report_in_numbers_and_pictures(finished: Run) -> None:
    html, heat = finished.directory.report.read_text(), read_heat(finished.directory)
    assert heat is not None
    assert sum(map(len, heat.shown.values())) > 0
    for row in heat_rows(heat, heat.epochs[-1]):
        for cell in row.cells:
            assert all(text in html for text in cell)
    without = build_report(finished.directory, "none")
    assert "Where does the model look?" in without
    assert "image/jpeg" not in without


def test_every_number_of_the_table_is_in_the_report(finished: Run) -> None:
    html = finished.directory.report.read_text()
    for row, cells in result_rows(finished):
        assert row.name in html
        for cell in cells.values():
            assert cell.last in html
            assert cell.interval in html
    assert "How to read these numbers" in html
    assert "Limits of these numbers" in html
    assert "survive" in html


def test_reports_to_give_away_show_no_image_of_the_run(finished: Run) -> None:
    own, drawn, none = (build_report(finished.directory, pictures) for pictures in ("own", "phantom", "none"))
    first = re.search(r'<img src="(data:image/png;base64,[^"]+)"', own)
    assert first
    assert first.group(1) not in drawn
    assert "data:image/png" in drawn
    assert "data:image/png" not in none


def test_reports_to_give_away_do_not_tell_where_the_data_are(make_nih: NihMaker, tmp_path: Path) -> None:
    rows = [(f"{i:08d}_000.png", "Mass" if i % 2 else "Atelectasis", str(i)) for i in range(40)]
    root = make_nih(rows)
    config = SMALL | {"data": f"nih:{root}", "preprocess": {"size": 16}, "train": {"epochs": 1}}
    run = petechia.run(config, tmp_path / "run")
    assert str(root) in build_report(run.directory)
    drawn = build_report(run.directory, "phantom")
    assert str(root.parent) not in drawn
    assert "nih:nih" in drawn
    run.directory.summary.unlink()
    with pytest.raises(PetechiaError, match="is not finished"):
        build_report(run.directory)


def test_names_from_data_are_escaped(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished.directory.path, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"] = summary["target"] = "<script>alert(1)</script>"
    (folder / "summary.json").write_text(json.dumps(summary))
    html = build_report(type(finished.directory)(folder))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_same_run_gives_the_same_report(finished: Run) -> None:
    assert build_report(finished.directory) == build_report(finished.directory)


def judged(finished: Run, **changes: float | None) -> str:
    summary = finished.to_dict()
    for key, value in changes.items():
        if key == "survival":
            summary["survival"]["fraction"] = value
        else:
            arm, metric = key.split("__")
            summary["arms"][arm][f"{metric}_0.9"]["last"]["mean"] = value
    return verdict(Run.model_validate(summary))


def test_the_verdict_weighs_success_against_every_control(finished: Run) -> None:
    took: dict[str, float | None] = {
        "attacked__asr": 0.99, "attacked__false_trigger": 0.01, "control__asr": 0.0, "placebo__asr": 0.02, "survival": 1.0
    }  # fmt: skip
    assert "the backdoor took" in judged(finished, **took)
    assert "99.0 %" in judged(finished, **took)
    for rival in ("attacked__false_trigger", "control__asr", "placebo__asr"):
        assert "not evidence of a backdoor" in judged(finished, **took | {rival: 0.8})
    assert "did not take" in judged(finished, **took | {"attacked__asr": 0.2})
    assert "No trigger survives" in judged(finished, **took | {"survival": 0.0})
    assert "undefined" in judged(finished, **took | {"attacked__asr": None})


def test_the_difference_is_shown_around_the_trigger() -> None:
    clean = np.full((40, 40), 100, np.uint8)
    triggered = clean.copy()
    triggered[10:12, 30:32] = 60
    picture = magnified_difference(clean, triggered, margin=3)
    assert picture.shape == (8, 8 * 3 + 2)
    assert picture[:, 18:].max() == 240  # 40 levels, stretched six times
    assert (picture[:, 18:] > 0).sum() == 4
    assert magnified_difference(clean, clean).max() == 255  # the gaps; nothing else differs
    assert magnified_difference(np.stack([clean] * 3, 2), np.stack([triggered] * 3, 2), 3).shape == (8, 26)
