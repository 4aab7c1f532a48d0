"""Nothing from a file is obeyed by the terminal: no markup, no control characters, whoever prints them."""

from __future__ import annotations

import errno
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from petechia.cli import common, poison
from petechia.cli.commands import app
from petechia.cli.common import Terminal
from petechia.cli.progress import ConsoleProgress

EVIL = "a\x1b]0;x\x07b\x1b[2Jc\x9b1md\x7fe\u202ef\u2066g\x08h\ri[/b][red]j:smile:\udc80"
SHOWN = "[/b][red]j:smile:�"
COLOURS = re.compile(r"\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d?[AK]|\r|\x1b\]8;[^\x1b\x07]*\x1b\\")


def harmful(text: str) -> list[str]:
    return [letter for letter in COLOURS.sub("", text) if not letter.isprintable() and letter != "\n"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal gets, on both outputs."""
    file = io.StringIO()
    for name in ("console", "errors"):
        monkeypatch.setattr(common, name, Terminal(file=file, force_terminal=True, width=300, _environ={}))
    monkeypatch.setattr("petechia.cli.progress.console", common.console)
    return file


@pytest.fixture
def logs() -> Iterator[None]:
    """Logging as it was before."""
    before, logger = logging.lastResort, logging.getLogger("petechia")
    logging.captureWarnings(False)
    handlers, propagate, level = logger.handlers, logger.propagate, logger.level
    yield
    logging.lastResort = before
    logging.captureWarnings(False)
    logging.getLogger("py.warnings").handlers = []
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_lines_tables_bars_and_rich_itself(terminal: io.StringIO) -> None:
    common.say(EVIL)
    common.note(EVIL)
    common.console.print(common.table(EVIL, title=EVIL, caption=EVIL, rows=[[EVIL]]))
    plain = Table(title=EVIL)
    plain.add_column(EVIL)
    plain.add_row(EVIL)
    common.console.print(plain)
    with ConsoleProgress().live() as progress:
        progress.phase(EVIL, 3)
        progress.advance()
        progress.note(EVIL)
        progress.finished(EVIL)
    said = terminal.getvalue()
    assert said.count(SHOWN) >= 9
    assert "\x1b[" in said  # it is a terminal
    assert not harmful(said)
    said.encode()


def test_logs_and_warnings_of_libraries(terminal: io.StringIO, logs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = EVIL.replace("\udc80", "")  # pytest's own record of a log cannot hold it
    common._log(2)
    logging.getLogger("petechia.data").info("%s", evil)
    library = logging.getLogger("a library")
    monkeypatch.setattr(library, "parent", None)  # as where nobody has set up logging
    library.warning("%s", evil)
    warnings.warn(evil, stacklevel=1)
    said = terminal.getvalue()
    assert COLOURS.sub("", said).count("]0;x") == 3
    assert not harmful(said)


def test_flaws_and_arguments() -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(EVIL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petechia.api.explain", fail)
        patch.setattr("petechia.explain", fail)
        result = CliRunner().invoke(app, ["explain", "m", "x", "--out", "y"])
    assert result.exit_code == 1
    assert "RuntimeError: a�" in result.output
    assert not harmful(result.output)
    evil = EVIL.replace("\udc80", "")
    for words in (
        ["info", evil],
        [evil],
        ["info", f"--{evil}"],
        ["info", "--threads", evil],
        ["explain", evil, evil, "--out", evil],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (1, 2)
        assert not harmful(result.output), words


def test_brackets_are_shown_and_hints_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "b[anon]" / "[/b] :smile:"
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        Image.new("L", (16, 16), 40 * number).save(folder / "images" / f"[red]{number}.png")
    (folder / "t.csv").write_text("image,[/b]\n" + "".join(f"[red]{number}.png,{number % 2}\n" for number in range(4)))
    result = CliRunner().invoke(app, ["scan", f"folder:{folder / 't.csv'}", "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    assert f"Every image, ranked: {folder / 'out' / 'suspects.csv'}" in result.output
    result = CliRunner().invoke(app, ["scan", f"folder:{folder / 'none.csv'}", "--out", str(folder / "out-2")])
    assert str(folder / "none.csv") in result.output.replace("\n", "")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"x")
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "m.onnx"), "x.png", "--out", str(tmp_path / "e")])
    assert "petechia[onnx]" in result.output, result.output


def test_an_output_that_cannot_be_written_is_blamed_itself(tmp_path: Path) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        Terminal(file=Full()).print("x")
    assert caught.value.filename == "the standard output"


def test_the_commands_print_through_it() -> None:
    for name in ("console", "errors"):
        assert isinstance(getattr(common, name), Terminal)
    assert not [name for name, value in vars(poison).items() if type(value) is Console]
