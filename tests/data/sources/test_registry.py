"""The registry of data sources, and what asks it."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.data import Catalog, open_source
from petechia.data.formats.locate import Missing
from petechia.data.sources import SOURCES, SourceOpener, source_forms

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
