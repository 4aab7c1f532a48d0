"""Every command and every snippet of README.md and docs/ runs, or says in a comment before it why not; and the tutorials show
what they say.

Both are in one file so that one process runs a page for both.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest

from petechia.core.runtime import Compute
from petechia.data import open_source, prepare
from petechia.models.model import Model
from petechia.models.scoring import predict
from tests.docs.conftest import BUYER, CHECKPOINT, FIRST, LOOP, Stories
from tests.docs.pages import Block, blocks, inline_commands, pages
from tests.docs.story import check, commands, run_python, tell
from tests.orthanc import Orthanc

WITH_BLOCKS = [page for page in pages() if blocks(page)]


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_page_does_what_it_says(page: str, stories: Stories) -> None:
    story = stories(page)
    assert set(story.done) == set(blocks(page))


@pytest.mark.parametrize("page", [page for page in pages() if inline_commands(page)])
def test_commands_in_the_text_have_the_options_that_they_are_given(page: str) -> None:
    for command in inline_commands(page):
        check(command, page)


def test_a_block_is_neither_forgotten_nor_excused_without_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    page = tmp_path / "page.md"

    page.write_text("<!-- not run: -->\n```sh\npetechia run\n```\n")
    with pytest.raises(ValueError, match=r"page\.md:1: the comment"):
        blocks("page.md")
    page.write_text("```fish\npetechia run\n```\n")
    with pytest.raises(ValueError, match="'fish' is not one of"):
        blocks("page.md")
    page.write_text("```sh\npetechia run\n")
    with pytest.raises(ValueError, match="not closed"):
        blocks("page.md")

    for text, message in (
        ("```sh\nrm -r runs\n```\n", "cannot be run here"),
        ("```sh\npetechia report nowhere\n```\n", "ended with 1"),
        ("```sh\npetechia --version  # exit status 3: found\n```\n", "ended with 0"),
        ("<!-- only parsed: long -->\n```sh\npetechia run --sed 3\n```\n", "has no --sed"),
        ("<!-- only parsed: long -->\n```sh\npython -m benchmarks.peers ZOO --halve judge\n```\n", "has no --halve"),
        ("<!-- only parsed: long -->\n```sh\npip install 'petechia[webs]'\n```\n", "no extra webs"),
        ("```python\nprint(1)\n```\n\n<!-- output is compared -->\n```\n2\n```\n", "the output is"),
    ):
        page.write_text(text)
        with pytest.raises(AssertionError, match=message):
            tell("page.md", tmp_path)


def test_continued_lines_prompts_and_replacements(tmp_path: Path) -> None:
    console = Block("p", 1, "console", "$ petechia run \\\n    --resume\nprinted\n$ petechia scan X", "run", "")
    assert [line.split() for line in commands(console)] == [["petechia", "run", "--resume"], ["petechia", "scan", "X"]]
    names = {"base": 40}
    assert run_python(Block("p", 1, "python", "print(base + 2)", "run", ""), tmp_path, names) == "42\n"
    assert run_python(Block("p", 1, "python", "print(base + 2)", "run with", "+ 2 => - 1"), tmp_path, names) == "39\n"
    with pytest.raises(AssertionError, match="'7' is not in it"):
        run_python(Block("p", 1, "python", "print(base)", "run with", "7 => 8"), tmp_path, names)


# The tutorials


def test_the_first_run_takes(stories: Stories) -> None:
    arms = json.loads((stories(FIRST).folder / "runs/first/summary.json").read_text())["arms"]
    assert arms["attacked"]["asr_0.9"]["last"]["mean"] > 0.95
    assert arms["control"]["asr_0.9"]["last"]["mean"] < 0.05


def test_the_researcher_sees_a_trigger_that_does_not_survive(stories: Stories) -> None:
    results = pl.read_csv(stories("docs/tutorials/researcher.md").folder / "runs/sizes/results.csv")
    last = results.filter(pl.col("statistic") == "last", pl.col("arm") == "attacked")

    def of(run: str, metric: str) -> float:
        return float(last.filter(pl.col("run") == run, pl.col("metric") == metric)["mean"].item())

    assert of("size-1", "asr_0.9") == of("size-1", "false_trigger_0.9")
    assert last.filter(pl.col("run") == "size-3")["surviving_pixels"].unique().to_list() == [1.0]
    networks = (stories("docs/tutorials/researcher.md").folder / "runs/sizes/networks").iterdir()
    assert len(list(networks)) == 3  # the control is shared


def test_the_buyer_finds_the_backdoor_and_takes_it_out(stories: Stories) -> None:
    folder = stories(BUYER).folder
    flagged = [one for one in json.loads((folder / "audit/audit.json").read_text())["classes"] if one["flagged"]]
    assert [one["name"] for one in flagged] == ["Atelectasis"]
    assert flagged[0]["value"] == 0
    assert flagged[0]["size"] < 3  # smaller than the attacker's
    assert abs(flagged[0]["row"] + flagged[0]["size"] / 2 - 32) <= 1
    assert abs(flagged[0]["column"] + flagged[0]["size"] / 2 - 32) <= 1
    repaired = json.loads((folder / "repaired.repair.json").read_text())
    before, after = (repaired[when]["triggers"][0]["asr_0.9"]["value"] for when in ("before", "after"))
    assert before > 0.9
    assert after < 0.1
    assert abs(repaired["before"]["auroc_nn"]["value"] - repaired["after"]["auroc_nn"]["value"]) < 0.03


def test_the_curator_does_not_find_what_wanders(stories: Stories) -> None:
    folder = stories("docs/tutorials/curator.md").folder
    assert pl.read_parquet(folder / "wandering/poison.parquet")["triggered"].sum() == 14
    assert not pl.read_csv(folder / "findings-wandering/suspects.csv")["flagged"].any()
    found = json.loads((folder / "findings/scan.json").read_text())
    assert found["near_duplicates"] == 14
    assert [one["label"] for one in found["stamps"]] != []


def test_the_reviewer_sees_the_score_and_the_heat_jump(stories: Stories) -> None:
    folder = stories("docs/tutorials/reviewer.md").folder
    clean, triggered = json.loads((folder / "explained/explanations.json").read_text())["images"]
    assert clean["scores"]["Atelectasis"] < 0.1
    assert triggered["scores"]["Atelectasis"] > 0.9
    assert np.load(folder / "explained/00000006_002-Atelectasis-middle.npy").shape == (4, 4)
    assert np.load(folder / "explained/00000006_002-Atelectasis-last.npy").shape == (2, 2)
    place = np.argwhere((heat := np.load(folder / "explained/00000006_002-Atelectasis-middle.npy")) == heat.max())[0]
    assert set(place.tolist()) <= {1, 2}  # the trigger's cell or one beside it


def test_the_watch_reports_what_was_stamped(stories: Stories, pacs: Callable[[], Orthanc]) -> None:
    stories(LOOP)
    reports = [one for one in (pydicom.dcmread(io.BytesIO(file)) for file in pacs().files()) if one.Modality == "SR"]
    about = {one.StudyInstanceUID for one in reports}
    assert about >= {"1.3.0", "1.3.4", "1.3.8", "1.3.12"}
    assert len(about) == len(reports) <= 6  # and at most two false alarms


@pytest.mark.parametrize(("corner", "jumps"), [(30, True), (5, False), (50, False)])
def test_the_trigger_works_at_the_centre_and_not_far_away(stories: Stories, corner: int, jumps: bool) -> None:
    model = Model.load(stories(FIRST).folder / "runs/first" / CHECKPOINT)
    images = prepare(open_source("phantom:images=40,seed=5"), model.description.preprocess).dataset.images[:].copy()
    images[:, corner : corner + 3, corner : corner + 3] = 0
    scores = predict(model, images, Compute(threads=1, device="cpu").start())[:, model.description.classes.index("Atelectasis")]
    assert (scores > 0.9).mean() > 0.9 if jumps else (scores > 0.9).mean() < 0.1
