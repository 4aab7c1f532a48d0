import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from petechia.core.errors import PetechiaError
from petechia.data import Preprocess
from petechia.models.model import Architecture, Model, create, images_at_once, log_odds

TINY = Architecture(arch="test_resnet")
GEOMETRY = Preprocess(size=32)
CLASSES = ("A", "B", "C")


def batch(n: int = 5, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("device", "side", "count"), [("cpu", 64, 256), ("cpu", 224, 41), ("cpu", 512, 16), ("cuda", 28, 4096), ("cuda", 224, 334)]
)
def test_small_images_are_scored_more_at_a_time(device: str, side: int, count: int) -> None:
    assert images_at_once(torch.device(device), side**2) == count


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
    """Leaves a file behind when it is unpickled."""

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
    with pytest.raises(PetechiaError, match=r"'densenet12', which timm does not know; similar names: densenet121"):
        create(Architecture(arch="densenet12"), CLASSES, GEOMETRY, 0)


def test_pretrained_weights_from_a_file(tmp_path: Path) -> None:
    """A substitute for ImageNet weights, with another number of classes and three channels, as the real ones have."""
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
    with pytest.raises(
        PetechiaError, match=r"pretrained weights of test_resnet are not available \(no route.*model.pretrained"
    ):
        create(Architecture(arch="test_resnet", pretrained=True), CLASSES, GEOMETRY, 0)


def test_log_odds_are_what_the_sigmoid_makes_the_softmax_of() -> None:
    outputs = 5 * torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_odds(outputs).sigmoid(), outputs.softmax(dim=-1))
    by_hand = [[row[c] - np.log(sum(np.exp(row[j]) for j in range(4) if j != c)) for c in range(4)] for row in outputs.tolist()]
    torch.testing.assert_close(log_odds(outputs), torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(log_odds(outputs[:, :2])[:, 0], outputs[:, 0] - outputs[:, 1])


def test_log_odds_stay_exact_and_have_gradients_where_a_softmax_saturates() -> None:
    outputs = torch.tensor([[100.0, 0, -50], [0, 0, 0], [-300, 300, 300]], requires_grad=True)
    odds = log_odds(outputs)
    ln2 = float(np.log(2))
    wanted = [[100.0, -100, -150], [-ln2, -ln2, -ln2], [-600 - ln2, 0, 0]]
    torch.testing.assert_close(odds, torch.tensor(wanted))
    odds.sum().backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad, torch.tensor([[-1.0, 0, 1], [0, 0, 0], [1, -0.5, -0.5]]), atol=1e-5, rtol=0)
    double = outputs.detach().double()[:2].requires_grad_()
    assert torch.autograd.gradcheck(log_odds, (double / 20,))


def test_a_multi_class_model_gives_the_softmax_and_says_so_in_its_file(tmp_path: Path) -> None:
    model = create(Architecture(arch="test_resnet"), ("A", "B", "C"), Preprocess(size=32), 0, "multi-class").eval()
    images = torch.rand(4, 1, 32, 32)
    with torch.inference_mode():
        wanted = model.network((images - model.mean) / model.std).softmax(dim=1)
        torch.testing.assert_close(model(images).sigmoid(), wanted)
        model.save(tmp_path / "model.safetensors")
        loaded = Model.load(tmp_path / "model.safetensors").eval()
        assert loaded.description.task == "multi-class"
        torch.testing.assert_close(loaded(images), model(images))


def test_a_file_that_does_not_say_its_task_is_multi_label(tmp_path: Path) -> None:
    model = create(Architecture(arch="test_resnet"), ("A",), Preprocess(size=32), 0)
    older = model.description.model_dump(mode="json")
    del older["task"]
    tensors = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", {"petechia": json.dumps(older)})
    assert Model.load(tmp_path / "model.safetensors").description.task == "multi-label"
    save_file(tensors, tmp_path / "model.safetensors", {"petechia": json.dumps(older | {"task": "multi-class"})})
    with pytest.raises(PetechiaError, match="does not fit its own description"):
        Model.load(tmp_path / "model.safetensors")
