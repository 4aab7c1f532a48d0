"""The registry of models' openers, and what asks it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from petechia.cli.commands import app
from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess
from petechia.models.classifier import Classifier
from petechia.models.openers import open_classifier
from petechia.models.registry import OPENERS, ModelOpener, model_forms, short_model_forms

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
FOLDERS = "encoder:FOLDER, hf:FOLDER, hf:ORG/NAME, clip:FOLDER, mlflow:MODEL/VERSION"
FORMS = f"a .safetensors, .onnx or .pt2 file, timm:NAME, timm:NAME:FILE, {FOLDERS} or xrv:NAME"


@pytest.fixture
def with_others() -> Iterator[list[str]]:
    """Openers of another package, for a prefix and a suffix; what they are given is kept."""
    given: list[str] = []

    def opened(text: str, runtime: Runtime) -> Classifier:
        given.append(text)
        return Classifier(text, ("A",), Preprocess(size=8), lambda images: torch.zeros(len(images), 1), runtime)

    prefix, suffix = ModelOpener("zeros:NAME", "Zeros", opened), ModelOpener("FILE.zero", "Zeros", opened)
    with OPENERS.temporarily({"zeros": prefix, ".zero": suffix, ".pt": suffix}):
        yield given


def test_the_forms_are_those_of_the_registry() -> None:
    assert list(OPENERS) == [".safetensors", ".onnx", ".pt2", "timm", "encoder", "hf", "clip", "mlflow", "xrv"]
    assert model_forms() == FORMS
    assert short_model_forms() == ("FILE.safetensors, FILE.onnx, FILE.pt2, timm:…, encoder:…, hf:…, clip:…, mlflow:… or xrv:…")
    for command in ("explain", "screen"):
        shown = " ".join(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).output.split())
        assert short_model_forms() in shown


def test_messages_name_what_can_be_opened(tmp_path: Path) -> None:
    with pytest.raises(PetechiaError) as raised:
        open_classifier("nothing.onnx", RUNTIME)
    assert str(raised.value) == f"There is no model 'nothing.onnx'; give {FORMS}."
    (tmp_path / "m.h5").touch()
    with pytest.raises(PetechiaError) as raised:
        open_classifier(str(tmp_path / "m.h5"), RUNTIME)
    assert str(raised.value) == (
        f"{tmp_path / 'm.h5'} is neither a .safetensors nor an .onnx nor a .pt2 file; convert the model to one of them."
    )
    with pytest.raises(PetechiaError, match=r"is a folder, not a model; give a \.safetensors, \.onnx or \.pt2 file\."):
        open_classifier(str(tmp_path), RUNTIME)


def test_models_of_another_package_are_opened(with_others: list[str], tmp_path: Path) -> None:
    file = tmp_path / "m.zero"
    file.touch()
    assert open_classifier("zeros:a:b", RUNTIME).classes == ("A",)
    assert open_classifier(str(file), RUNTIME).name == str(file)
    assert with_others == ["a:b", str(file)]
    files = "a .safetensors, .onnx, .pt2, .zero or .pt file"
    assert model_forms() == f"{files}, timm:NAME, timm:NAME:FILE, {FOLDERS}, xrv:NAME or zeros:NAME"
    with pytest.raises(PetechiaError, match=r"There is no model '\.zero:x'"):  # a suffix is no prefix
        open_classifier(".zero:x", RUNTIME)


def test_a_pickle_is_refused_before_any_opener_is_asked(with_others: list[str], tmp_path: Path) -> None:
    (tmp_path / "m.pt").touch()
    with pytest.raises(PetechiaError, match="is a pickle, which can run arbitrary code"):
        open_classifier(str(tmp_path / "m.pt"), RUNTIME)
    assert with_others == []


def test_what_is_no_opener_is_refused() -> None:
    opener = ModelOpener("x", "x", lambda _text, _runtime: open_classifier("x", RUNTIME))
    said = "is not a petechia.models.registry.ModelOpener"
    with pytest.raises(TypeError, match=said), OPENERS.temporarily({"zeros": open_classifier}):
        pass
    for name in ("a:b", "a.b", "", ".", "..b"):
        with pytest.raises(ValueError, match="is neither a prefix"), OPENERS.temporarily({name: opener}):
            pass
