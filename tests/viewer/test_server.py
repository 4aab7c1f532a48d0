import logging
from pathlib import Path

import pytest

from petechia.core.runtime import Compute
from petechia.data.formats.images import encode_png
from petechia.study import Run
from petechia.viewer.access import Access
from petechia.viewer.app import make_app
from petechia.viewer.server import make_server
from petechia.viewer.subject import Subject
from tests.viewer.conftest import client_of
from tests.viewer.test_app import PIXELS, ask

UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.asgi")  # uvicorn.access is silent


def test_the_web_server_leaves_logging_to_the_application(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in UVICORN}
    ours = logging.getLogger("petechia")
    settings = (list(ours.handlers), ours.level, ours.disabled)
    make_server(make_app(subject, set(), Access()))
    assert {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in UVICORN} == before
    assert (list(ours.handlers), ours.level, ours.disabled) == settings
    logging.getLogger("uvicorn.error").warning("a warning of the web server")
    logging.getLogger("uvicorn.error").info("a detail of the web server")
    assert caplog.messages == ["a warning of the web server"]


def test_the_log_says_what_was_loaded_and_names_no_file_of_a_reader(
    finished: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "Doe, Jane").mkdir()
    for number in range(20):
        (tmp_path / "Doe, Jane" / f"Doe {number}.png").write_bytes(encode_png(PIXELS + number))
    caplog.set_level(logging.INFO, "petechia")
    runtime = Compute(threads=1, device="cpu", precision="fp32").start()
    subject = Subject(finished.directory.path, runtime, str(tmp_path / "Doe, Jane"))
    client = client_of(subject)
    image = client.post("/api/images", content=encode_png(PIXELS)).json()["image"]
    assert ask(client, image).status_code == 200
    question = {"image": image, "arm": "attacked", "seed": 0, "epoch": 2}
    assert client.post("/api/screen", json=question).status_code == 200
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("petechia.viewer.")]
    assert ours[0].startswith("loaded attacked, seed 0, epoch 2 in ")
    assert ours[1].startswith("fitted a screen on ")
    assert "Doe" not in caplog.text
    assert image not in "".join(ours)
