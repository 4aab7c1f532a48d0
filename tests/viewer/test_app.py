import base64
import json
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from petechia.attack import Patch
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.data import Preprocess, open_source
from petechia.data.formats.images import encode_png
from petechia.data.levels import Levels
from petechia.models.model import Architecture, Model, create
from petechia.saliency import cam
from petechia.study import Run
from petechia.study.directory import read_arrays, read_table
from petechia.viewer import pictures, serve, uploads
from petechia.viewer.pictures import Picture, Pictures
from petechia.viewer.screens import Screens
from petechia.viewer.subject import Subject
from tests.data.formats.test_dicom import RAMP, made, written
from tests.detect.screen.conftest import ByHand, opened
from tests.viewer.conftest import client_of, run_apart, serving

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
CENTRE = {"row": 14, "column": 14, "size": 3, "value": 0}


@pytest.fixture(scope="module")
def client(subject: Subject) -> Any:
    return client_of(subject)


def open_test(client: TestClient, position: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/test/{position}").json()
    return found


def ask(client: TestClient, image: str, stamps: list[dict[str, int]] | None = None, **changes: Any) -> Any:
    question = {"image": image, "stamps": stamps or [], "arm": "attacked", "seed": 0, "epoch": 2, "target": 0}
    return client.post("/api/explain", json=question | changes)


def test_both_pages_have_strict_security_headers(client: TestClient) -> None:
    for path, words in (
        ("/", "Backdoor attack on a radiograph classifier"),
        ("/read", "Read an image"),
        ("/report.css", "--ink"),
    ):
        response = client.get(path)
        assert words in response.text
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "<style" not in response.text
        assert "style=" not in response.text
        assert "onclick" not in response.text
    for path in ("/docs", "/openapi.json", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "localhost.", ""),
        *("[", "[::1", "localhost:", "user@localhost", "localhost/evil", "localhost evil.example", "2130706433"),
    ],
)
def test_requests_to_another_host_name_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/session", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8765", "[::1]:80", "Ward-7.Hospital:8765"])
def test_requests_to_our_own_host_names_are_answered(subject: Subject, host: str) -> None:
    client = client_of(subject, {"ward-7.hospital"}, headers={})
    client.headers["authorization"] = f"Bearer {client.access.token}"  # the cookie is of another host
    for headers in ({"host": host}, {"host": host, "origin": f"http://{host.lower()}", "sec-fetch-site": "same-origin"}):
        assert client.get("/api/session", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_can_neither_read_nor_post(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/api/session", headers=headers).status_code == 403
    assert client.post("/api/images", content=b"x", headers=headers).status_code == 403


def test_the_session_says_what_there_is(client: TestClient, finished: Run) -> None:
    session = client.get("/api/session").json()
    table = read_table(finished.directory.test)
    assert session["tests"] == table.height
    assert session["without_target"] == np.flatnonzero(table["Atelectasis"].to_numpy() == 0).tolist()
    assert session["networks"][0] == {"arm": "attacked", "seed": 0, "epochs": [1, 2]}
    assert {(one["arm"], one["seed"]) for one in session["networks"]} == {
        (arm, seed) for arm in ("attacked", "control", "placebo") for seed in (0, 3)
    }
    assert session["trigger"] == {"size": 3, "value": 0}
    assert session["methods"][0] == {"name": "gradcam", "label": "Grad-CAM"}
    assert [one["name"] for one in session["methods"]] == [
        *("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam")
    ]


def test_a_test_image_is_the_one_of_the_run_with_its_truth_and_the_attackers_place(client: TestClient, finished: Run) -> None:
    row = read_table(finished.directory.test).row(3, named=True)
    found = open_test(client, 3)
    assert found["place"] == [row["row_seed_0"], row["column_seed_0"]]
    assert all(row[name] == 1 for name in found["findings"])
    catalog = open_source("phantom:images=160,size=32")
    (truth,) = catalog.reader.read(np.flatnonzero(catalog.ids == row["id"]))
    values = np.frombuffer(client.get(f"/api/images/{found['image']}/levels").content, "<u2").reshape(32, 32)
    assert np.array_equal(values, truth.astype(np.uint16) * 257)  # type: ignore[union-attr]


def test_an_answer_is_what_the_model_says_of_the_stamped_image(client: TestClient, finished: Run) -> None:
    found = open_test(client)
    stamps = [CENTRE, {"row": 0, "column": 29, "size": 2, "value": 255}]
    answer = ask(client, found["image"], stamps).json()
    catalog = open_source("phantom:images=160,size=32")
    row = read_table(finished.directory.test).row(0, named=True)
    (clean,) = catalog.reader.read(np.flatnonzero(catalog.ids == row["id"]))
    assert isinstance(clean, np.ndarray)
    triggered = Patch(size=3, value=0).stamp(clean[None], np.array([[14, 14]]))
    triggered = Patch(size=2, value=255).stamp(triggered, np.array([[0, 29]]))
    pair = np.concatenate([clean[None], triggered])
    model = Model.load(finished.directory.network("attacked", 0).checkpoint(2)).eval()
    batch = torch.from_numpy(pair).float()[:, None] / 255
    with torch.no_grad():
        assert np.allclose(answer["scores"], model(batch).sigmoid(), atol=2e-5)
    for layer, maps in cam(model, batch, 0).items():
        hottest = np.array(answer["hottest"][layer])[:, None, None]
        assert np.allclose(hottest, maps.amax(dim=(1, 2), keepdim=True), rtol=1e-4)
        assert np.allclose(answer["maps"][layer] * hottest, maps, atol=1e-4 * hottest.max())
    assert answer["changed"] == int((pair[0] != pair[1]).sum())
    seen = [np.frombuffer(base64.b64decode(one), np.uint8).reshape(32, 32) for one in answer["seen"]]
    assert np.array_equal(seen, pair)


def test_without_stamps_there_is_no_triggered_image(client: TestClient) -> None:
    answer = ask(client, open_test(client)["image"]).json()
    assert len(answer["scores"]) == len(answer["maps"]["last"]) == 1
    assert answer["changed"] == 0


def test_the_attackers_stamp_gives_the_stored_score(client: TestClient, finished: Run) -> None:
    stored = read_arrays(finished.directory.network("attacked", 0).scores_of(1))
    for position in (0, 5):
        found = open_test(client, position)
        row, column = found["place"]
        stamp = {"row": row, "column": column, "size": 3, "value": 0}
        scores = ask(client, found["image"], [stamp], epoch=1).json()["scores"]
        assert np.allclose(scores, [stored["clean"][position], stored["triggered"][position]], atol=0.02)  # may be bf16


def test_a_trigger_that_does_not_survive_changes_nothing(hostile: Subject) -> None:
    client = client_of(hostile)
    found = client.post("/api/images", content=encode_png(np.full((256, 256), 90, np.uint8))).json()
    assert found["kept"] == {"top": 64, "left": 64, "height": 128, "width": 128}
    same: dict[str, Any] = {"arm": "model", "epoch": 0, "target": None}
    dead = ask(client, found["image"], [{"row": 0, "column": 0, "size": 5, "value": 0}], **same).json()
    assert dead["changed"] == 0
    assert dead["scores"][0] == dead["scores"][1]
    alive = ask(client, found["image"], [{"row": 128, "column": 128, "size": 4, "value": 0}], **same).json()
    assert alive["changed"] == 1  # every fourth pixel is read
    assert alive["target"] == int(np.argmax(alive["scores"][1]))


UPLOADS = [encode_png(PIXELS), written(made(RAMP)), written(made(RAMP, PhotometricInterpretation="MONOCHROME1"))]


@pytest.mark.parametrize("content", UPLOADS)
def test_uploads_are_read_by_content(client: TestClient, content: bytes) -> None:
    found = client.post("/api/images", content=content).json()
    assert found["findings"] is None
    values = np.frombuffer(client.get(f"/api/images/{found['image']}/levels").content, "<u2")
    truth = PIXELS if found["width"] == 70 else RAMP
    order = np.corrcoef(values, truth.ravel())[0, 1]
    assert order == pytest.approx(-1 if b"MONOCHROME1" in content else 1, abs=1e-6)
    assert ask(client, found["image"]).status_code == 200


def test_bad_uploads_are_sentences(client: TestClient) -> None:
    report = made(RAMP)
    del report.PixelData
    cases = {
        b"": "not a PNG",
        b"<html>": "not a PNG",
        encode_png(PIXELS)[:900]: "cannot be decoded",
        written(report): "without pixels",
    }
    for content, words in cases.items():
        response = client.post("/api/images", content=content)
        assert response.status_code == 400
        assert words in response.json()["detail"]


def test_a_large_upload_is_refused(client: TestClient) -> None:
    parts = (bytes(2**20) for _ in range(200))
    for response in (
        client.post("/api/images", content=parts),
        client.post("/api/images", content=b"x", headers={"content-length": str(200 * 2**20)}),
    ):
        assert response.status_code == 413
        assert "larger than 64 MiB" in response.json()["detail"]


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"%d" % (200 * 2**20))]])
def test_the_rest_of_a_too_large_upload_is_not_read(headers: list[tuple[bytes, bytes]]) -> None:
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": bytes(2**20), "more_body": taken < 200}

    with pytest.raises(HTTPException, match="larger than 64 MiB"):
        run_apart(uploads.read_body(Request({"type": "http", "headers": headers}, receive), uploads.MOST_UPLOAD, 9))
    assert taken == (0 if headers else 65)


def test_a_long_question_is_refused_before_it_is_read(client: TestClient) -> None:
    response = client.post("/api/explain", content=b"[" * (2**16 + 1))
    assert response.status_code == 413
    assert "larger than 64 KiB" in response.json()["detail"]
    assert client.post("/api/explain", content=b"[" * 2**16).status_code == 422


def test_uploads_are_bounded_in_number_and_time(client: TestClient, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> Iterator[bytes]:
        yield b"x"

    monkeypatch.setattr(uploads, "MOST_SECONDS", 0)
    assert client.post("/api/images", content=slow()).status_code == 408
    monkeypatch.setattr(uploads, "MOST_UPLOADS", 0)
    busy = client_of(subject)
    response = busy.post("/api/images", content=encode_png(PIXELS))
    assert (response.status_code, response.json()["detail"][:15]) == (429, "Too many images")
    assert int(response.headers["retry-after"]) > 0


def test_an_image_too_large_for_browsers_is_refused_in_a_sentence(client: TestClient) -> None:
    response = client.post("/api/images", content=encode_png(np.zeros((1, 40_000), np.uint8)))
    assert response.status_code == 400
    assert "40000 x 1 pixels; give one of at most 32,767 a side" in response.json()["detail"]


def test_an_unexpected_error_is_a_sentence_and_quotes_nothing(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object) -> None:
        raise ValueError("Doe, Jane")

    monkeypatch.setattr(pictures, "read_levels", fail)
    client = client_of(subject)
    response = client.post("/api/images", content=b"x")
    assert response.status_code == 500
    assert response.json()["detail"] == "The viewer failed on this request; the error is in its terminal."
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "ValueError in " in caplog.text
    assert "Doe" not in caplog.text


def test_bad_questions_are_sentences(client: TestClient) -> None:
    image = open_test(client)["image"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"image": "gone"}, "no longer in memory"),
        ({"target": 99}, "Target 99 is not a class"),
        ({"epoch": 7}, "no epoch 7 of attacked, seed 0"),
        ({"arm": "../../etc"}, "There is no epoch 2 of ../../etc"),
        ({"method": "scorecam"}, "'scorecam' is not a method"),
        ({"stamps": [{"row": 0, "column": 0, "size": 40, "value": 0}]}, "does not fit on an image of 32 x 32"),
        ({"stamps": [{"row": 31, "column": 0, "size": 2, "value": 0}]}, "does not fit on an image of 32 x 32"),
        ({"stamps": [CENTRE] * 65}, "at most 64"),
        ({"stamps": [CENTRE | {"value": 256}]}, "less than or equal to 255"),
        ({"seed": "x" * 30}, "valid integer"),
        ({"more": 1}, "not permitted"),
    ]
    for changes, words in cases:
        response = ask(client, **({"image": image} | changes))
        assert response.status_code in (400, 422)
        assert words in response.json()["detail"]
    assert client.get("/api/test/9999").json()["detail"].startswith("There is no test image 10000")
    assert client.get("/api/test/-1").status_code == 400
    assert client.get("/api/images/gone/levels").status_code == 400


def test_ten_users_at_once_get_their_own_answers(client: TestClient, subject: Subject) -> None:
    images = [open_test(client, position)["image"] for position in range(10)]
    subject._answers._kept.clear()
    alone = [ask(client, image, [CENTRE]).json() for image in images]
    subject._answers._kept.clear()  # or they would not be computed at once
    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda image: ask(client, image, [CENTRE]).json(), images))
    for one, other in zip(together, alone, strict=True):
        assert (one["seen"], one["target"], one["changed"]) == (other["seen"], other["target"], other["changed"])
        assert np.allclose(one["scores"], other["scores"], atol=1e-5)  # other images in a pass change the last digits


def test_hostile_names_are_data(hostile: Subject) -> None:
    client = client_of(hostile, follow_redirects=True)
    response = client.get("/")
    assert response.url.path == "/read"
    assert "<img" not in response.text
    assert "<script>alert" not in response.text
    assert client.get("/api/session").headers["content-type"] == "application/json"


def test_a_hostile_run_is_data(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "run")
    for name in ("summary.json", "environment.json"):
        file = tmp_path / "run" / name
        content = json.loads(file.read_text())
        content |= {key: "<script>alert(1)</script>" for key, value in content.items() if isinstance(value, str)}
        file.write_text(json.dumps(content))
    subject = Subject(tmp_path / "run", Compute(threads=1, device="cpu", precision="fp32").start())
    text = client_of(subject).get("/").text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_a_run_without_its_data_shows_the_examples_that_it_kept(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("phantom:images=160,size=32", "nih:/nowhere"))
    subject = Subject(tmp_path / "run", Compute(threads=1, device="cpu", precision="fp32").start())
    client = client_of(subject)
    session = client.get("/api/session").json()
    assert "cannot be opened" in session["notice"]
    assert session["tests"] == 4
    assert ask(client, open_test(client, 1)["image"], [CENTRE]).json()["changed"] > 0


def test_pictures_used_least_recently_are_dropped() -> None:
    picture = Picture.of_levels(Levels(np.zeros((10, 10), np.float32), 0, 255))
    few = Pictures(most_pictures=2)
    first, second = few.add(picture), few.add(picture)
    few.get(first)
    few.add(picture)
    assert few.get(first)
    with pytest.raises(PetechiaError, match="no longer in memory"):
        few.get(second)
    small = Pictures(most_bytes=500)
    first, second = small.add(picture), small.add(picture)
    assert small.get(second)
    with pytest.raises(PetechiaError):
        small.get(first)


def test_a_readers_pictures_make_room_for_that_readers_only() -> None:
    picture = Picture.of_levels(Levels(np.zeros((10, 10), np.float32), 0, 255))
    shared = Pictures(most_bytes=8 * picture.bytes, most_each=3)
    mine = [shared.add(picture, "me") for _ in range(2)]
    theirs = [shared.add(picture, "they") for _ in range(5)]
    assert [shared.find(name) is not None for name in mine + theirs] == [True] * 2 + [False] * 2 + [True] * 3
    many = [shared.add(picture, f"reader {number}") for number in range(3)]
    last = shared.add(picture, "newcomer")  # in place of the oldest of those who have most
    assert [shared.find(name) is not None for name in mine] == [True, True]
    assert [shared.find(name) is not None for name in theirs[2:]] == [False, True, True]
    assert all(shared.find(name) for name in (*many, last))


def test_a_full_memory_of_others_pictures_is_a_sentence_until_they_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Picture.of_levels(Levels(np.zeros((10, 10), np.float32), 0, 255))
    shared = Pictures(most_bytes=3 * picture.bytes)
    names = [shared.add(picture, f"reader {number}") for number in range(3)]
    with pytest.raises(PetechiaError, match="full of other readers' images"):
        shared.add(picture, "newcomer")
    assert all(shared.find(name) for name in names)
    monkeypatch.setattr(pictures, "FORGOTTEN", -1)
    shared.add(picture, "newcomer")
    assert shared.find(names[0]) is None


def test_browsing_test_images_does_not_drop_uploads(client: TestClient) -> None:
    mine = client.post("/api/images", content=encode_png(PIXELS)).json()["image"]
    first = open_test(client, 0)["image"]
    for position in range(20):
        open_test(client, position)
    assert ask(client, mine).status_code == 200
    assert ask(client, first).status_code == 200


def test_the_same_question_is_computed_once(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(subject)
    image, asked = open_test(client, 7)["image"], []
    real = subject._answers._explain

    def counted(classifier: Any, seen: Any, *rest: Any) -> Any:
        asked.append(len(seen))
        return real(classifier, seen, *rest)

    monkeypatch.setattr(subject._answers, "_explain", counted)
    subject._answers._kept.clear()
    first = ask(client, image, [CENTRE]).json()
    assert ask(client, image, [CENTRE]).json() == first
    ask(client, image, [CENTRE, CENTRE | {"row": 2}])
    assert asked == [2, 1]  # the clean image is not computed again


def test_an_epoch_trained_meanwhile_can_be_chosen(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    last = tmp_path / "run" / "checkpoints" / "attacked-seed-0" / "epoch-02.safetensors"
    last.rename(tmp_path / "later")
    subject = Subject(tmp_path / "run", Compute(threads=1, device="cpu", precision="fp32").start())
    client = client_of(subject)
    assert "This run is not finished" in client.get("/").text
    image = open_test(client)["image"]
    assert client.get("/api/session").json()["networks"][0]["epochs"] == [1]
    assert "no epoch 2" in ask(client, image).json()["detail"]
    (tmp_path / "later").rename(last)
    assert client.get("/api/session").json()["networks"][0]["epochs"] == [1, 2]
    assert ask(client, image).status_code == 200


def test_a_network_without_finite_scores_is_refused_in_a_sentence(tmp_path: Path) -> None:
    model = create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    model.save(tmp_path / "model.safetensors")
    subject = Subject(tmp_path / "model.safetensors", Compute(threads=1, device="cpu", precision="fp32").start())
    client = client_of(subject)
    image = client.post("/api/images", content=encode_png(PIXELS)).json()["image"]
    assert "are not finite numbers" in ask(client, image, arm="model", epoch=0).json()["detail"]


def screening(client: TestClient, image: str, stamps: list[dict[str, int]] | None = None, **changes: Any) -> Any:
    question = {"image": image, "stamps": stamps or [], "arm": "model", "seed": 0, "epoch": 0}
    return client.post("/api/screen", json=question | changes)


def smooth(count: int) -> NDArray[np.uint8]:
    """Images of 32 x 32 pixels without any small dark region."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(130, 170, (count, 4, 4)).repeat(8, axis=1).repeat(8, axis=2)
    return np.asarray(coarse + rng.normal(0, 4, coarse.shape), np.uint8)


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The viewer of a model whose "Target" is a black 3 x 3 square, with clean images in a folder."""
    path, folder = tmp_path / "model.safetensors", tmp_path / "clean"
    create(Architecture(arch="test_resnet"), ("Target", "Bright"), Preprocess(size=32), 0).save(path)
    folder.mkdir()
    for number, image in enumerate(smooth(40)[:-1]):
        (folder / f"{number:02}.png").write_bytes(encode_png(image))
    subject = Subject(path, Compute(threads=1, device="cpu", precision="fp32").start(), str(folder))
    monkeypatch.setattr(subject._screens, "_classifier", lambda _: opened(ByHand()))
    return client_of(subject)


def test_a_triggered_picture_is_more_suspicious_than_the_clean_one(by_hand: TestClient) -> None:
    session = by_hand.get("/api/session").json()
    assert (session["clean_images"], session["no_screen"]) == (39, "")
    image = by_hand.post("/api/images", content=encode_png(smooth(40)[-1])).json()["image"]
    clean = screening(by_hand, image).json()
    triggered = screening(by_hand, image, [{"row": 20, "column": 9, "size": 3, "value": 0}]).json()
    assert triggered["suspicion"] > triggered["threshold"] == clean["threshold"] > clean["suspicion"]
    assert (triggered["flagged"], clean["flagged"]) == (True, False)
    assert (triggered["rate"], triggered["images"], triggered["target"]) == (1 / 40, 39, 0)
    box = triggered["box"]
    assert box["top"] <= 21 < box["top"] + box["height"]
    assert box["left"] <= 10 < box["left"] + box["width"]


def test_the_box_is_in_pixels_of_the_picture(by_hand: TestClient) -> None:
    large = smooth(40)[-1].repeat(4, axis=0).repeat(4, axis=1)
    image = by_hand.post("/api/images", content=encode_png(large)).json()["image"]
    box = screening(by_hand, image, [{"row": 80, "column": 36, "size": 12, "value": 0}]).json()["box"]
    assert box["top"] <= 86 < box["top"] + box["height"] <= 100
    assert box["left"] <= 42 < box["left"] + box["width"] <= 56


def test_a_clean_image_is_not_compared_with_itself(by_hand: TestClient, client: TestClient, finished: Run) -> None:
    image = by_hand.post("/api/images", content=encode_png(smooth(40)[3])).json()["image"]
    assert screening(by_hand, image).json()["images"] == 38
    tests = read_table(finished.directory.test).height
    found = screening(client, open_test(client, 2)["image"], arm="control", epoch=2).json()
    assert (found["images"], found["rate"]) == (tests - 1, pytest.approx(1 / tests))
    sets = smooth(4)
    screens = Screens([lambda: sets[::2], lambda: sets[1::2]], lambda _: opened(ByHand()))
    assert [screens.choose(one) for one in (*sets, sets[0] + 1)] == [(1, ()), (0, ()), (1, ()), (0, ()), (0, ())]


def test_without_clean_images_a_sentence_says_what_to_give(hostile: Subject, finished: Run, tmp_path: Path) -> None:
    client = client_of(hostile)
    image = client.post("/api/images", content=encode_png(PIXELS)).json()["image"]
    sentence = client.get("/api/session").json()["no_screen"]
    assert "safetensors --clean DIR" in sentence
    response = screening(client, image)
    assert (response.status_code, response.json()["detail"]) == (400, sentence)
    (tmp_path / "a.png").write_bytes(encode_png(PIXELS))
    for folder, words in ((tmp_path, "There are 1 images in .*; give at least 20"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(PetechiaError, match=words):
            Subject(finished.directory.path, Compute(threads=1, device="cpu").start(), str(folder))


def test_bad_questions_to_the_screen_are_sentences(by_hand: TestClient) -> None:
    image = by_hand.post("/api/images", content=encode_png(PIXELS)).json()["image"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"image": "gone"}, "no longer in memory"),
        ({"stamps": [{"row": 0, "column": 0, "size": 80, "value": 0}]}, "does not fit"),
        ({"target": 0}, "not permitted"),
    ]
    for changes, words in cases:
        response = screening(by_hand, **({"image": image} | changes))
        assert response.status_code in (400, 422)
        assert words in response.json()["detail"]
    for headers, status in (({"origin": "http://evil.example"}, 403), ({"host": "evil.example"}, 421)):
        assert by_hand.post("/api/screen", json={}, headers=headers).status_code == status


def of_stage_input(finished: Run, folder: Path, location: str) -> Subject:
    """The run, as if its attack had stamped what the model sees of an image."""
    shutil.copytree(finished.directory.path, folder)
    config = folder / "config.yaml"
    changed = config.read_text().replace("stage: native", "stage: input").replace("location: center", f"location: {location}")
    config.write_text(changed)
    return Subject(folder, Compute(threads=1, device="cpu", precision="fp32").start())


def test_at_the_stage_of_the_input_stamps_are_put_on_what_the_model_sees(finished: Run, tmp_path: Path) -> None:
    client = client_of(of_stage_input(finished, tmp_path / "run", "center"))
    found = client.post("/api/images", content=encode_png(PIXELS)).json()
    assert found["input"] == 32
    assert found["place"] == [14, 14]
    answer = ask(client, found["image"], [CENTRE]).json()
    clean = Preprocess(size=32)(PIXELS)
    seen = [np.frombuffer(base64.b64decode(one), np.uint8).reshape(32, 32) for one in answer["seen"]]
    assert np.array_equal(seen, [clean, Patch(size=3).stamp(clean[None], np.array([[14, 14]]))[0]])


def test_the_attackers_place_on_a_readers_own_image(client: TestClient, finished: Run, tmp_path: Path) -> None:
    assert client.post("/api/images", content=encode_png(PIXELS)).json()["place"] == [23, 33]
    assert client.post("/api/images", content=encode_png(PIXELS[:2, :2])).json()["place"] is None  # it does not fit
    anywhere = client_of(of_stage_input(finished, tmp_path / "run", "random"))
    assert anywhere.post("/api/images", content=encode_png(PIXELS)).json()["place"] is None


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_what_cannot_be_served_is_refused_in_a_sentence(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "study" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "study" / "study.json").write_text("{}")
    cases = {
        tmp_path / "trap.pt": "is a pickle, which can run arbitrary code when loaded",
        tmp_path / "study": "is a study of 1 runs; serve one of them, such as .*runs/a",
        tmp_path: "holds no run",
        tmp_path / "gone": "There is no run and no model",
    }
    for path, words in cases.items():
        with pytest.raises(PetechiaError, match=words):
            serve(path, "127.0.0.1", 0, print)
    assert not (tmp_path / "sprung").exists()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PetechiaError, match=rf"cannot listen on 127.0.0.1, port {port} .*choose another --port"):
            serve(finished.directory.path, "127.0.0.1", port, print)


def test_the_work_of_a_reader_who_left_is_dropped(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question has its turn; the second is abandoned while it waits for it."""
    computed: list[int] = []
    real = subject._answers._explain

    def slow(classifier: Any, seen: Any, targets: Any, method: str) -> Any:
        computed.extend(targets)
        time.sleep(1 if 0 in targets else 0)
        return real(classifier, seen, targets, method)

    monkeypatch.setattr(subject._answers, "_explain", slow)
    subject._answers._kept.clear()
    with serving(subject) as address:
        host, port = address.removeprefix("http://").split(":")
        known = {"authorization": f"Bearer {address.token}", "content-type": "application/json"}
        question: dict[str, Any] = {"image": "test-1", "arm": "attacked", "seed": 0, "epoch": 2}
        open_connections = []
        for target in (0, 1, 2):
            connection = HTTPConnection(host, int(port), timeout=30)
            connection.request("POST", "/api/explain", json.dumps(question | {"target": target}), known)
            open_connections.append(connection)
            time.sleep(0.25)
        open_connections[1].close()
        assert [one.getresponse().status for one in (open_connections[0], open_connections[2])] == [200, 200]
    assert computed == [0, 2]


def test_a_screen_ends_when_its_reader_leaves_and_holds_up_no_explanation(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def endless(_choice: Any, _network: Any, check: Any) -> None:
        try:
            while True:
                check()
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(subject, "fit_screen", endless)
    with serving(subject) as address:
        host, port = address.removeprefix("http://").split(":")
        known = {"authorization": f"Bearer {address.token}", "content-type": "application/json"}
        question = {"image": "test-1", "arm": "placebo", "seed": 0, "epoch": 1}
        screening = HTTPConnection(host, int(port), timeout=30)
        screening.request("POST", "/api/screen", json.dumps(question), known)
        stamping = HTTPConnection(host, int(port), timeout=30)
        stamping.request("POST", "/api/explain", json.dumps(question), known)
        assert stamping.getresponse().status == 200
        assert not ended.is_set()
        screening.close()
        assert ended.wait(10)


def test_a_reader_who_asks_too_much_at_once_is_told_when_to_come_back(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, go = client_of(subject), threading.Event()
    real = subject.read
    monkeypatch.setattr(subject, "read", lambda *given: (go.wait(10), real(*given))[1])
    image = open_test(client)["image"]
    with ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(ask, client, image) for _ in range(64)]
        while not any(one.done() for one in asked):
            time.sleep(0.01)
        go.set()
        answers = [one.result() for one in asked]
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {200, 429}
    refused = answers[statuses.index(429)]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "You have asked for too much at the same time (explanations); try again in" in refused.json()["detail"]
