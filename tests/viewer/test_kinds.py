"""The viewer on runs whose trigger is not a square."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import petechia
from petechia.attack import Sinusoid
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.detect.audit.transforms import packed
from petechia.detect.repair import KnownChange
from petechia.viewer.subject import Subject
from tests.conftest import SMALL
from tests.viewer.conftest import Served, client_of, serving
from tests.viewer.test_app import ask, open_test
from tests.viewer.test_browser import expect, picture, watched

ONE = SMALL | {"train": {"epochs": 1, "batch_size": 32}, "heat": 0, "arms": ["attacked"], "compute": {"threads": 1}}
FINDINGS = {"trigger": {"kind": "findings", "present": ["Infiltration"]}, "mode": "replace"}


def made(factory: pytest.TempPathFactory, attack: dict[str, Any]) -> Subject:
    run = petechia.run(ONE | {"attack": attack}, factory.mktemp("run") / "run")
    return Subject(run.directory.path, Compute(threads=1, device="cpu", precision="fp32").start())


@pytest.fixture(scope="module")
def waving(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return made(tmp_path_factory, {"trigger": {"kind": "sinusoid"}})


@pytest.fixture(scope="module")
def seas(waving: Subject) -> Iterator[Served]:
    with serving(waving) as address:
        yield address


def test_an_attacked_picture_gets_the_runs_own_trigger(waving: Subject) -> None:
    client = client_of(waving)
    session = client.get("/api/session").json()
    assert session["attack"] == {"text": Sinusoid().describe(), "square": False}
    found = open_test(client)
    assert found["place"] == [0, 0]
    answer = ask(client, found["image"], epoch=1, attacked=True).json()
    assert len(answer["scores"]) == 2
    clean = waving.images.picture(0).grey
    wave = Sinusoid().stamp(clean[None], np.zeros((1, 2), np.intp))[0]
    assert answer["changed"] == (Preprocess(size=32)(wave) != Preprocess(size=32)(clean)).sum() > 500
    assert len(ask(client, found["image"], epoch=1).json()["scores"]) == 1
    assert client.get("/").status_code == 200


def audited(folder: Path, change: KnownChange | None) -> Path:
    """An audit.json that flags Infiltration for a checkerboard, or for a change of the image."""
    found: dict[str, Any] = {
        "name": "Infiltration",
        "flagged": True,
        "row": 4,
        "column": 9,
        "size": 3,
        "value": 0,
        "other": 255,
    }
    if change is not None:
        found |= {"trigger": "change", "change": change.model_dump(exclude={"target"})}
    (folder / "audit.json").write_text(json.dumps({"classes": [found]}))
    return folder / "audit.json"


@pytest.mark.parametrize("whole", [False, True], ids=["stamp", "whole image"])
def test_a_trigger_that_an_audit_found_can_be_stamped(waving: Subject, tmp_path: Path, whole: bool) -> None:
    field = torch.linspace(-1, 1, 128).reshape(1, 2, 8, 8)
    warp = {"family": "warp", "strength": 0.05, "shape": (2, 8, 8), "direction": packed(field)}
    change = KnownChange.model_validate({"target": "Infiltration", **warp})
    runtime = Compute(threads=1, device="cpu", precision="fp32").start()
    subject = Subject(waving.name, runtime, audit=audited(tmp_path, change if whole else None))
    client = client_of(subject)
    session = client.get("/api/session").json()
    assert session["attack"]["text"].endswith("which an audit found for Infiltration")
    assert (session["attack"]["square"], session["classes"][session["target"]]) == (False, "Infiltration")
    found = open_test(client)
    assert found["place"] == ([0, 0] if whole else [4, 9])
    clean, triggered = subject.seen(subject.images.picture(0), [], attacked=True)
    expected = clean.copy()
    if whole:
        expected = change.on(clean[None], np.zeros((1, 2), np.intp))[0]
    else:
        expected[4:7, 9:12] = [[0, 255, 0], [255, 0, 255], [0, 255, 0]]
    assert np.array_equal(triggered, expected)
    assert ask(client, found["image"], epoch=1, attacked=True).json()["changed"] == (clean != expected).sum() > 0


def test_an_audit_of_another_model_is_refused(waving: Subject, tmp_path: Path) -> None:
    runtime = Compute(threads=1, device="cpu", precision="fp32").start()
    file = audited(tmp_path, None)
    file.write_text(file.read_text().replace('"row": 4', '"row": 31'))
    with pytest.raises(PetechiaError, match="does not fit on the model's images of 32 x 32"):
        Subject(waving.name, runtime, audit=file)


def test_findings_cannot_be_stamped(tmp_path_factory: pytest.TempPathFactory) -> None:
    subject = made(tmp_path_factory, FINDINGS)
    client = client_of(subject)
    found = open_test(client)
    assert found["place"] is None
    refused = ask(client, found["image"], epoch=1, attacked=True)
    assert refused.status_code == 400
    assert "cannot be stamped on this picture: Infiltration" in refused.text


def test_a_click_puts_the_trigger_on_and_takes_it_off(browser: Any, seas: Served) -> None:
    with watched(browser) as page:
        page.goto(seas.page("/read"))
        expect(page, "#status", "Atelectasis: 0.")
        expect(page, "#attack-text", "a wave of 6 periods across the image")
        assert not page.locator("#size").is_visible()
        before = picture(page, "#seen-triggered")
        page.locator("#triggered").click(position={"x": 100, "y": 120})
        expect(page, "#status", "triggered.")
        expect(page, "#stamps", "a wave of 6 periods")
        expect(page, "#survival", "pixels of what the model sees")
        assert picture(page, "#seen-triggered") != before
        page.locator("#triggered").click(position={"x": 30, "y": 30})
        expect(page, "#survival", "no stamp yet")
        page.get_by_role("button", name="Stamp where the attacker did").click()
        expect(page, "#status", "triggered.")
        page.get_by_role("button", name="Undo").click()
        expect(page, "#survival", "no stamp yet")
        assert page.locator("#stamps li").count() == 0
