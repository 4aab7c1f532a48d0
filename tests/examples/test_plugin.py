"""The example of a plugin, installed into a fresh virtual environment without a network, and used there."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the example installed, and finds everything else where the tests do."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False)
    where = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")}))
    shared = [str(ROOT / "src"), *(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))]
    (where / "shared.pth").write_text("\n".join(shared) + "\n")
    source = shutil.copytree(EXAMPLE, folder / "plugin", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    given = source if find_spec("hatchling") else wheel(source, folder)
    found: Path = folder / "venv" / "bin" / "python"
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(found), "install", *options, str(given)], check=True)
    return found


def wheel(source: Path, folder: Path) -> Path:
    """The wheel that hatchling would build, written by hand where hatchling is not installed."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    groups = project["entry-points"].items()
    entries = "".join(f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in one.items()) for group, one in groups)
    info = {
        "METADATA": f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": entries,
    }
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as opened:
        for path in sorted((source / "src").rglob("*.py")):
            opened.write(path, str(path.relative_to(source / "src")))
        for what, text in info.items():
            opened.writestr(f"{name}-{version}.dist-info/{what}", text)
        rows = "".join(f"{one},,\n" for one in [*opened.namelist(), f"{name}-{version}.dist-info/RECORD"])
        opened.writestr(f"{name}-{version}.dist-info/RECORD", rows)
    return file


@pytest.fixture(scope="module")
def used(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of commands that use what the example adds."""
    folder = tmp_path_factory.mktemp("used")
    command = [str(python), str(Path(__file__).with_name("use_plugin.py")), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"folder": folder}


def test_its_own_tests_pass(python: Path) -> None:
    command: list[str | Path] = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        EXAMPLE,
        EXAMPLE / "tests",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_its_trigger_is_in_the_configuration(used: dict[str, Any]) -> None:
    assert used["poison"][0] == 0, used["poison"][1]
    assert used["images"] > 5
    assert used["inverted"]
    assert used["top"] == 2  # 0.4 of 32 pixels from the centre, at 15.5
    code, said = used["unknown key"]
    assert code == 1
    assert "'attack.trigger.radios' in the configuration is not a key of kind ring; did you mean 'radius'?" in said
    kinds = "the kinds are 'patch', 'pattern', 'sinusoid', 'warp', 'fiba', 'marker', 'findings', 'ring'."
    assert kinds in used["unknown kind"][1]


def test_its_source_is_scanned(used: dict[str, Any]) -> None:
    assert used["scan"][0] in (0, 3), used["scan"][1]
    assert (used["folder"] / "scan" / "scan.json").is_file()


def test_its_model_is_explained_by_its_method(used: dict[str, Any]) -> None:
    assert used["explain"][0] == 0, used["explain"][1]
    content = json.loads((used["folder"] / "out" / "explanations.json").read_text())
    (explained,) = content["images"][0]["explained"]
    assert (content["method"], explained["class"], explained["layers"]["0"]["cells"]) == ("slope", "well", [16, 16])


def test_the_help_names_what_it_adds(used: dict[str, Any]) -> None:
    assert "dicomweb:URL, xrv:NAME:FOLDER or npz:…" in used["scan --help"][1]
    assert "xrv:… or linear:…" in used["explain --help"][1]
    assert "occlusion, rise or slope." in used["explain --help"][1]
    assert "xrv:… or linear:…" in used["screen --help"][1]
