"""The registry of data sources, and what asks it."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.formats.labelling import LabelOptions
from petechia.data.formats.locate import Missing
from petechia.data.sources import SOURCES, SourceOpener, source_forms
from petechia.data.sources.options import split_options

FORMS = (
    "phantom, phantom:images=N,size=N,seed=N, nih:FOLDER, folder:TABLE, folder:FOLDER, medmnist:FILE, dicom:FOLDER, "
    "nifti:FOLDER, dicomweb:URL or xrv:NAME:FOLDER"
)


def test_the_forms_are_those_of_the_registry() -> None:
    assert source_forms() == FORMS
    for source in ("nih", "nih:", "folder:", "nowhere:x", "", ":", "Phantom"):
        with pytest.raises(PetechiaError) as raised:
            open_source(source)
        assert str(raised.value) == f"{source!r} is not a data source; use {FORMS}."
    opened: list[tuple[str, str, str]] = []

    def record(source: str, text: str, missing: Missing) -> Catalog:
        opened.append((source, text, missing))
        return open_source("phantom:images=2,size=16")

    with SOURCES.temporarily({"film": SourceOpener("film:BOX", "Films in a box", record)}):
        assert source_forms() == FORMS.replace(" or xrv", ", xrv") + " or film:BOX"
        assert len(open_source("film:a:b,c=1", "skip")) == 2
    assert opened == [("film:a:b,c=1", "a:b,c=1", "skip")]


@pytest.mark.parametrize(
    "wrong", ["film", SourceOpener("films:BOX", "Films", lambda source, _text, _missing: open_source(source))]
)
def test_what_is_no_opener_is_refused(wrong: object) -> None:
    said = r"is not a petechia\.data\.sources\.SourceOpener|must begin with 'film:'"
    with pytest.raises((TypeError, ValueError), match=said), SOURCES.temporarily({"film": wrong}):
        pass


def test_help_shows_the_forms_and_waits_for_nothing_heavy() -> None:
    shown = " ".join(CliRunner().invoke(app, ["scan", "--help"], env={"COLUMNS": "300"}).output.split())
    assert FORMS in shown
    code = (
        "import sys; from petechia.cli.commands import app; app(['scan', '--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'numpy', 'polars', 'pydicom') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "source",
    [
        *(f"{kind}:{'a' * 5000}" for kind in ("nih", "folder", "medmnist", "dicom", "nifti")),
        f"folder:a/{'b,root=' * 20_000}",
        f"dicom:.,window={'9' * 5000}",
        f"nifti:.,range=1:{'9' * 5000}",
        f"phantom:images={'9' * 5000}",
        f"medmnist:{'../' * 3000}a.npz",
    ],
    ids=lambda source: source[:12],
)
def test_a_very_long_source_is_refused_in_a_sentence(source: str) -> None:
    with pytest.raises(PetechiaError, match=r"\.$"):
        open_source(source)


def test_options_may_be_longer_than_a_path(tmp_path: Path) -> None:
    classes = "|".join(f"class {number}" for number in range(2000))
    path, options = split_options("x", f"{tmp_path},labels={classes}", LabelOptions)
    assert (path, options.labels) == (str(tmp_path), classes)


@pytest.mark.parametrize("kind", ["dicom", "folder", "medmnist", "nifti", "nih", "xrv:NIH"])
def test_the_home_of_a_user_who_does_not_exist_is_a_folder_that_does_not(kind: str) -> None:
    with pytest.raises(PetechiaError, match="~nosuchuser/images"):
        open_source(f"{kind}:~nosuchuser/images")
