"""Runs the blocks of a page in order, in one folder, as a reader would."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.models.openers.card import Card
from petechia.study import load_config
from tests.docs.pages import ROOT, Block, blocks

ANY = ("…", "COMMAND")  # in the place of a command's name
PLACES: dict[str, str] = {}  # what stands in a page → what is meant in its place, such as the address of a server
DETECTORS = ("scan", "audit", "screen")  # these end with 0 or 3, and a page need not say which


@dataclass
class Story:
    """The result of a page.

    Attributes:
        folder: where it was run.
        done: every block, with what was done with it.
        said: every command that was run, with what it printed.
    """

    folder: Path
    done: dict[Block, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


def tell(page: str, folder: Path) -> Story:
    """Run a page. `/data/` of its commands is `data/` in the folder.

    Raises:
        AssertionError: a command fails, or does not end as the page says, or an output differs.
    """
    story = Story(folder)
    names: dict[str, Any] = {}
    printed = ""
    found = blocks(page)
    for block in found:
        if block.kind == "yaml" and block.how != "not run":
            story.done[block] = configure(block, folder)
    for block in found:
        if block.kind == "output":
            story.done[block] = "shown"
            if block.how == "output is compared":
                assert printed.strip() == block.text.strip(), f"{block}: the output is\n{printed}"
                story.done[block] = "compared"
        elif block.how == "not run":
            story.done[block] = f"not run: {block.what}"
        elif block.kind == "card":
            Card.model_validate_json(block.text)
            story.done[block] = "validated"
        elif block.kind == "python":
            printed = run_python(block, folder, names)
            story.done[block] = "run"
        elif block.kind == "sh":
            for line in commands(block):
                if block.how == "only parsed":
                    check(line, str(block))
                else:
                    story.said[line] = run_command(line, block, folder)
            story.done[block] = "parsed" if block.how == "only parsed" else "run"
    return story


def configure(block: Block, folder: Path) -> str:
    """Validate a configuration. If its first line is like `# my.yaml`, write it for the commands of the page."""
    name = re.match(r"# (\S+\.yaml)\n", block.text)
    file = folder / (name[1] if name else "unnamed.yaml")
    file.write_text(_placed(block.text, folder), encoding="utf-8")
    load_config(file)
    return "validated"


def commands(block: Block) -> Iterator[str]:
    """Return the commands of a shell block, with continued lines joined."""
    for raw in block.text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if block.language == "console":
            if not line.startswith("$ "):
                continue  # what a command printed
            line = line.removeprefix("$ ")
        if line and not line.startswith("#"):
            yield line


def run_command(line: str, block: Block, folder: Path) -> str:
    """Run one command and return its output.

    Raises:
        AssertionError: it fails, or does not end with the exit status of its comment, as in `# exit status 3`.
    """
    name, *arguments = shlex.split(_placed(line, folder), comments=True)
    name = name.removeprefix(".venv/bin/")
    if name == "petechia":
        added = shlex.split(block.what) if block.how == "run with" else []
        code, printed = call([*arguments, *added], folder)
        status = re.search(r"# exit status (\d+)", line)
        expected = [int(status[1])] if status else [0, 3] if arguments[0] in DETECTORS else [0]
        assert code in expected, f"{block}: {line}\nended with {code}:\n{printed}"
        return printed
    assert name == "cp", f"{block}: {line}\ncannot be run here; say `not run` or `only parsed`, and why"
    subprocess.run([name, *arguments], cwd=folder, check=True)
    return ""


def call(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Return exit status and output of petechia, run in this process: importing torch per command would take minutes."""
    if arguments[0] == "serve":
        return look(arguments, folder)
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def look(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Start the viewer, fetch its first page, and stop it with Ctrl-C."""
    command = [sys.executable, "-m", "petechia", *arguments, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as viewer:
        assert viewer.stdout is not None
        try:
            address = re.search(r"http://\S+", viewer.stdout.readline())
            assert address is not None
            keeping_cookies = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with keeping_cookies.open(address[0], timeout=30) as page:
                assert b"<html" in page.read()
        finally:
            viewer.send_signal(signal.SIGINT)
        return viewer.wait(30), address[0]


def run_python(block: Block, folder: Path, names: dict[str, Any]) -> str:
    """Run Python with the names that earlier blocks of the page defined, and return its output."""
    text = _placed(block.text, folder)
    for change in block.what.split("; ") if block.how == "run with" else ():
        old, new = change.split(" => ")
        assert old in text, f"{block}: {old!r} is not in it"
        text = text.replace(old, new)
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        if block.how == "run after":
            exec(block.what, names)  # noqa: S102
        exec(compile(text, str(block), "exec"), names)  # noqa: S102
    return printed.getvalue()


def check(line: str, where: str) -> None:
    """Check that a command exists and has the given options. The brackets of a synopsis are ignored.

    Raises:
        AssertionError: it does not.
    """
    name, *arguments = shlex.split(re.sub(r"[\[\]]", "", line), comments=True)
    options = [word.partition("=")[0] for word in arguments if re.fullmatch(r"--[a-z][a-z-]*(=.*)?", word)]
    match name.removeprefix(".venv/bin/"), arguments:
        case "petechia", [command, *_]:
            known = set().union(*map(options_of, _commands() if command in ANY else [command]))
        case "python", ["-m", module, *_]:
            known = options_of_benchmark(module)
        case "make", [target]:
            made = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
            assert made.returncode == 0, f"{where}: there is no make {target}"
            return
        case "pip", ["install", package]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            extra = re.fullmatch(r"petechia(\w+)", package)
            assert extra, f"{where}: {line}"
            assert extra[1] in extras, f"{where}: there is no extra {extra[1]}"
            return
        case _:
            raise AssertionError(f"{where}: {line}\ncannot be checked; say `not run`, and why")
    assert not (unknown := set(options) - known), f"{where}: {line}\nhas no {', '.join(sorted(unknown))}"


def _commands() -> dict[str, Any]:
    return dict(typer.main.get_group(app).commands)


def options_of(command: str) -> set[str]:
    """Return the options of a command of petechia."""
    assert command in _commands(), f"there is no petechia {command}"
    return {"--help", *(option for parameter in _commands()[command].params for option in parameter.opts)}


def options_of_benchmark(module: str) -> set[str]:
    """Return the options of a benchmark from its source, because its imports need the extra `bench`."""
    path = ROOT / module.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert file.is_file(), f"there is no {module}"
    known = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
            known.add(node.value)  # of argparse
        elif isinstance(node, ast.FunctionDef) and node.name == "main":
            known |= {f"--{argument.arg.replace('_', '-')}" for argument in node.args.args}  # of typer
    return known


def _placed(text: str, folder: Path) -> str:
    for name, place in PLACES.items():
        text = text.replace(name, place)
    return text.replace("/data/", f"{folder}/data/")
