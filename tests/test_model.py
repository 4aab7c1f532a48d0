import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from petechia.compute import Compute
from petechia.data import Preprocess, Selection
from petechia.errors import PetechiaError
from petechia.model import Architecture, Model, create, predict

TINY = Architecture(arch="test_resnet")
GEOMETRY = Preprocess(size=32)
CLASSES = ("A", "B", "C")


def batch(n: int = 5, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, 32, 32, generator=torch.Generator().manual_seed(0))


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(99)
    a = create(TINY, CLASSES, GEOMETRY, seed=1)
    state = torch.random.get_rng_state()
    b = create(TINY, CLASSES, GEOMETRY, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)  # and nobody else's randomness is touched
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    c = create(TINY, CLASSES, GEOMETRY, seed=2)
    assert not all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


def test_forward_is_timms_network_on_normalised_images() -> None:
    model = create(TINY, CLASSES, GEOMETRY, 0).eval()
    mean, std = model.description.mean[0], model.description.std[0]
    with torch.inference_mode():
        assert torch.allclose(model(batch()), model.network((batch() - mean) / std), atol=1e-6)


def test_three_channels_take_grey_and_colour() -> None:
    model = create(TINY.model_copy(update={"channels": 3}), CLASSES, GEOMETRY, 0).eval()
    with torch.inference_mode():
        assert torch.allclose(model(batch()), model(batch().expand(-1, 3, -1, -1)), atol=1e-6)
        assert model(batch(channels=3)).shape == (5, 3)


@pytest.mark.parametrize("arch", ["test_vit", "test_efficientnet", "test_convnext"])
def test_other_families_of_networks_run_at_any_size(arch: str) -> None:
    model = create(Architecture(arch=arch), CLASSES, Preprocess(size=64), 0).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = create(TINY, CLASSES, Preprocess(size=32, crop=0.6), 3).eval()
    model.save(tmp_path / "m.safetensors")
    loaded = Model.load(tmp_path / "m.safetensors").eval()
    assert loaded.description == model.description
    with torch.inference_mode():
        assert torch.equal(loaded(batch()), model(batch()))
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Bomb(proof)))
    torch.save(Bomb(proof), tmp_path / "b.safetensors")
    for name in ("a.pt", "b.safetensors"):
        with pytest.raises(PetechiaError, match=f"{name} is not a safetensors file"):
            Model.load(tmp_path / name)
    assert not proof.exists()


def test_files_without_or_with_a_wrong_description_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(PetechiaError, match="no description"):
        Model.load(path)
    save_file({"a": torch.zeros(2)}, path, {"petechia": '{"format": "other"}'})
    with pytest.raises(PetechiaError, match="does not fit its own description"):
        Model.load(path)
    model = create(TINY, CLASSES, GEOMETRY, 0)
    save_file({"a": torch.zeros(2)}, path, {"petechia": model.description.model_dump_json()})
    with pytest.raises(PetechiaError, match="does not fit its own description"):
        Model.load(path)
    with pytest.raises(PetechiaError, match="No such file"):
        Model.load(tmp_path / "missing.safetensors")


def test_unknown_architectures_get_near_names() -> None:
    with pytest.raises(PetechiaError, match=r"'densenet12', which timm does not know; near names: densenet121"):
        create(Architecture(arch="densenet12"), CLASSES, GEOMETRY, 0)


def test_pretrained_weights_from_a_file(tmp_path: Path) -> None:
    """A stand-in for ImageNet weights: another class count and three channels, as the real ones have."""
    donor = timm.create_model("test_resnet", num_classes=1000)
    save_file({name: tensor.contiguous() for name, tensor in donor.state_dict().items()}, tmp_path / "w.safetensors")
    wanted = Architecture(arch="test_resnet", pretrained=tmp_path / "w.safetensors", channels=3)
    model = create(wanted, CLASSES, GEOMETRY, 0)
    state, source = model.network.state_dict(), donor.state_dict()
    shared = [name for name in source if source[name].shape == state[name].shape and source[name].dtype.is_floating_point]
    assert len(shared) > 20
    assert all(torch.equal(state[name], source[name]) for name in shared)
    grey = create(wanted.model_copy(update={"channels": 1}), CLASSES, GEOMETRY, 0)
    first = next(name for name in source if source[name].ndim == 4)
    assert torch.allclose(grey.network.state_dict()[first], source[first].sum(dim=1, keepdim=True), atol=1e-6)
    (tmp_path / "pickle.pth").touch()
    for bad in ("absent.safetensors", "pickle.pth"):
        with pytest.raises(PetechiaError, match=r"which is not a \.safetensors file"):
            create(wanted.model_copy(update={"pretrained": tmp_path / bad}), CLASSES, GEOMETRY, 0)


def test_without_a_network_pretrained_weights_are_missed_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(PetechiaError, match=r"pretrained weights of test_resnet cannot be had \(no route.*model.pretrained"):
        create(Architecture(arch="test_resnet", pretrained=True), CLASSES, GEOMETRY, 0)


def test_predict_gives_probabilities_in_order_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Compute(precision="fp32").open()
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    model = machine.place(create(TINY, CLASSES, GEOMETRY, 0))
    rows = np.arange(30)[::-1]
    whole = predict(model, Selection(images, rows), machine)
    monkeypatch.setattr("petechia.model.BATCH", 7)
    seen: list[int] = []
    parts = predict(model, Selection(images, rows), machine, seen.append)
    assert seen == [7, 7, 7, 7, 2]
    assert whole.dtype == np.float32
    assert np.allclose(whole, parts, atol=1e-5)
    with torch.inference_mode():
        by_hand = model(torch.from_numpy(images[::-1].copy()).float()[:, None] / 255).sigmoid().numpy()
    assert np.allclose(whole, by_hand, atol=1e-5)
    assert predict(model, Selection(images, rows[:0]), machine).shape == (0, 3)
