"""Models of an MLflow registry in a SQLite file."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from petechia.core.budget import budget
from petechia.core.errors import PetechiaError
from petechia.core.files import sha256
from petechia.core.runtime import Compute
from petechia.data import Preprocess
from petechia.models.model import Architecture, create
from petechia.models.openers import open_classifier, registered
from petechia.testing import check_opener
from tests.models.openers.conftest import CLASSES, SIDE, write_huggingface, write_open_clip
from tests.models.openers.test_encoder import write_encoder
from tests.models.openers.test_openers import write_onnx

mlflow = pytest.importorskip("mlflow", reason="the extra track is not installed")
RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'm.db'}").create_registered_model("lung")  # takes seconds
    return folder


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'm.db'}")
    return mlflow.MlflowClient()


def register(client: Any, folder: Path) -> str:
    """Register a folder as the next version, and return its number."""
    return str(client.create_model_version("lung", source=str(folder)).version)


def a_model_of_petechia(folder: Path) -> Path:
    folder.mkdir()
    create(Architecture(arch="test_resnet"), ("A", "B"), Preprocess(size=32), 0).save(folder / "model.safetensors")
    return folder


def test_versions_and_aliases(client: Any, tmp_path: Path) -> None:
    folder = a_model_of_petechia(tmp_path / "m")
    version = register(client, folder)
    client.set_registered_model_alias("lung", "champion", version)
    found = check_opener(f"mlflow:lung/{version}", runtime=RUNTIME)
    assert found.name == found.public_name
    assert (found.name, found.digest) == (f"mlflow:lung/{version}", sha256(folder / "model.safetensors"))
    assert open_classifier("mlflow:lung@champion", RUNTIME).name == f"mlflow:lung/{version}"
    images = torch.rand(2, 1, 32, 32)
    own = open_classifier(str(folder / "model.safetensors"), RUNTIME)
    assert torch.equal(found.logits(images), own.logits(images))


def test_what_mlflow_writes_of_a_network_of_transformers(client: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    network = write_huggingface(tmp_path / "m")
    processor = transformers.ViTImageProcessor(size=SIDE, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    parts = {"model": network, "image_processor": processor}
    mlflow.transformers.save_model(parts, str(tmp_path / "saved"), task="image-classification", pip_requirements=["x"])
    found = open_classifier(f"mlflow:lung/{register(client, tmp_path / 'saved')}", RUNTIME)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        wanted = network((images - 0.5) / 0.25).logits.softmax(dim=1)  # the preprocessing is among the components
    np.testing.assert_allclose(found.logits(images).sigmoid(), wanted, atol=1e-5)
    assert found.classes == CLASSES


def test_an_onnx_model_stays_while_it_is_used(client: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    (tmp_path / "m").mkdir()
    path = Path(write_onnx(tmp_path / "m" / "model.onnx"))
    (tmp_path / "m" / "model.json").write_text('{"classes": ["A", "B", "C"]}')
    mlflow.onnx.save_model(onnx.load(path), str(tmp_path / "saved"), pip_requirements=["x"])
    shutil.copy(tmp_path / "m" / "model.json", tmp_path / "saved")
    found = open_classifier(f"mlflow:lung/{register(client, tmp_path / 'saved')}", RUNTIME)
    images = torch.rand(2, 1, 8, 8)
    assert found.classes == ("A", "B", "C")
    assert torch.equal(found.logits(images), open_classifier(str(path), RUNTIME).logits(images))


def test_folders_and_bare_weights(client: Any, tmp_path: Path) -> None:
    wanted = write_encoder(tmp_path / "encoder")
    write_open_clip(tmp_path / "clip")
    bare = tmp_path / "bare"
    bare.mkdir()
    timm = pytest.importorskip("timm")
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), bare / "net.safetensors")
    (bare / "net.json").write_text(json.dumps({"arch": "test_resnet", "classes": ["x", "y"]}))
    images = torch.rand(2, 3, 64, 64)
    encoder, zero_shot, weights = (
        open_classifier(f"mlflow:lung/{register(client, tmp_path / name)}", RUNTIME) for name in ("encoder", "clip", "bare")
    )
    np.testing.assert_allclose(encoder.logits(images), wanted(images), atol=1e-4)
    assert zero_shot.classes == ("A", "B")
    assert weights.classes == ("x", "y")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("evil").touch, ())


@pytest.mark.parametrize(("name", "form"), [("model.pkl", "sklearn"), ("data/model.pth", "pytorch"), ("model.bin", "?")])
def test_pickles_are_refused_and_not_copied(name: str, form: str, client: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "m"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(pickle.dumps(Evil()))
    (folder / "MLmodel").write_text(f"flavors:\n  python_function: {{loader_module: os}}\n  {form}: {{}}\n")
    version = register(client, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registered, "TemporaryDirectory", lambda prefix: Kept(tmp_path))
    with pytest.raises(PetechiaError, match=rf"mlflow:lung/{version} contains only {name}, a pickle, .*; register it as ONNX"):
        open_classifier(f"mlflow:lung/{version}", RUNTIME)
    assert not (tmp_path / "evil").exists()
    assert not [*(tmp_path / "private").iterdir()]


class Kept:
    """A temporary folder that stays."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder / "private")
        Path(self.name).mkdir()

    def cleanup(self) -> None:
        """Keep it."""


def test_what_is_ambiguous_empty_or_too_large(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = a_model_of_petechia(tmp_path / "several")
    shutil.copy(several / "model.safetensors", several / "second.safetensors")
    with pytest.raises(PetechiaError, match=r"contains several models \(model.safetensors, second.safetensors\)"):
        open_classifier(f"mlflow:lung/{register(client, several)}", RUNTIME)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("nothing")
    with pytest.raises(PetechiaError, match="contains no model; register it as ONNX"):
        open_classifier(f"mlflow:lung/{register(client, tmp_path / 'empty')}", RUNTIME)
    large = register(client, a_model_of_petechia(tmp_path / "large"))
    monkeypatch.setenv("PETECHIA_LIMITS", "model_bytes=1000")
    budget.cache_clear()
    try:
        with pytest.raises(PetechiaError, match=rf"mlflow:lung/{large} has [0-9,]+ bytes, and the maximum is 1,000"):
            open_classifier(f"mlflow:lung/{large}", RUNTIME)
    finally:
        monkeypatch.undo()
        budget.cache_clear()


def test_temporary_folders_go_with_the_model(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = register(client, a_model_of_petechia(tmp_path / "m"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    found = open_classifier(f"mlflow:lung/{version}", RUNTIME)
    assert len(set(tmp_path.iterdir()) - before) == 1
    del found
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["lung", "lung/", "lung/x", "lung/1/2", "@x", "lung@", "", "a:b/1", "lung/1\n"])
def test_what_is_no_version(name: str, client: Any) -> None:
    with pytest.raises(PetechiaError, match="is not mlflow:MODEL/VERSION or mlflow:MODEL@ALIAS"):
        open_classifier(f"mlflow:{name}", RUNTIME)


@pytest.mark.parametrize("uri", ["http://jane:hunter2@127.0.0.1:9", "nosuch://jane:hunter2@host/db"])
def test_a_registry_that_cannot_be_used_does_not_show_its_credentials(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(PetechiaError, match="MLflow registry") as raised:
        open_classifier("mlflow:lung/1", RUNTIME)
    assert "hunter2" not in str(raised.value)


def test_what_the_registry_does_not_have(client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("lung/999", "heart/1", "lung@nobody"):
        with pytest.raises(PetechiaError, match=f"The MLflow registry does not have mlflow:{name}"):
            open_classifier(f"mlflow:{name}", RUNTIME)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(PetechiaError, match="cannot be used: there is no file"):
        open_classifier("mlflow:lung/1", RUNTIME)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PetechiaError, match="needs the address of the registry; set MLFLOW_TRACKING_URI"):
        open_classifier("mlflow:lung/1", RUNTIME)
    assert not [*tmp_path.iterdir()]  # MLflow would have made a registry
    monkeypatch.setattr(registered, "find_spec", lambda _: None)
    with pytest.raises(PetechiaError, match=r"needs MLflow, which is not installed; install petechia\[track\]"):
        open_classifier("mlflow:lung/1", RUNTIME)
