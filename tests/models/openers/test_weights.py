"""Weights of others: the names and the wrappings under which people save them."""

import argparse
import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.runtime import Compute
from petechia.models.openers import open_classifier
from petechia.models.openers.weights import Inert, match_names, read_weights

RUNTIME = Compute(device="cpu", precision="fp32", threads=1).start()
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("test_resnet", num_classes=3, in_chans=1).eval()
    return made


def opened(path: Path) -> Tensor:
    (path.with_name(path.name.removesuffix(".tar")).with_suffix(".json")).write_text(
        json.dumps({"preprocess": {"size": 32}, "mean": [0], "std": [1]})
    )
    return open_classifier(f"timm:test_resnet:{path}", RUNTIME).logits(IMAGES)


def true_logits(network: nn.Module) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network(torch.from_numpy(IMAGES / np.float32(255))[:, None])
    return found


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: one for name, one in state.items()}


def head_apart(state: State) -> State:
    return {f"model.{'' if name.startswith('fc.') else 'backbone.'}{name}": one for name, one in state.items()}


def mixed(state: State) -> State:
    return {("module." if k % 2 else "_orig_mod.module.") + name: one for k, (name, one) in enumerate(state.items())}


@pytest.mark.parametrize(
    "change",
    [
        *(under(prefix) for prefix in (
            "", "module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "encoder.", "my_own.wrapper.",
            "module._orig_mod.", "_orig_mod.module.model.",
        )),
        head_apart,
        mixed,
        lambda state: under("model.")(state) | {"criterion.pos_weight": torch.ones(3)},
        lambda state: under("module.")(state) | {"n_averaged": torch.tensor(7)},  # torch.optim.swa_utils
        lambda state: state | {"criterion.weight": torch.ones(3), "bce.pos_weight": torch.ones(3), "pos_weight": torch.ones(3)},
        lambda state: under("model.")(state | {"criterion.weight": torch.ones(3)}),
        lambda state: {name.replace("layer1.", "layer1._orig_mod."): one for name, one in state.items()},
        lambda state: under("model.")({name.replace("layer1.", "layer1.module."): one for name, one in state.items()}),
        lambda state: {name.replace("layer1.0.", "layer1.0._checkpoint_wrapped_module."): one for name, one in state.items()},
        lambda state: {name: one for name, one in state.items() if not name.endswith("num_batches_tracked")},
    ],
)  # fmt: skip
def test_names_of_wrappers(network: nn.Module, tmp_path: Path, change: Callable[[State], State]) -> None:
    torch.save({"state_dict": change(dict(network.state_dict()))}, tmp_path / "m.pth")
    torch.testing.assert_close(opened(tmp_path / "m.pth"), true_logits(network))


def test_what_is_left_out_is_told(network: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = under("model.")(dict(network.state_dict())) | {"loss.weight": torch.ones(3)}
    save_file(state, tmp_path / "m.safetensors")
    with caplog.at_level(logging.WARNING, "petechia"):
        opened(tmp_path / "m.safetensors")
    assert "loss.weight is not part of timm's test_resnet and was left out" in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: under("student.")(state) | under("teacher.")(state), "network 2 times, under 'student.', 'teacher.'"),
        (
            lambda state: {name: one for name, one in under("model.")(state).items() if "fc.bias" not in name},
            r"test_resnet \(it lacks fc\.bias\)",
        ),
        (
            lambda state: under("model.")(state | {"extra.weight": torch.ones(3)}),
            r"it has extra\.weight, which the network has not",
        ),
        (
            lambda state: (
                {name: one for name, one in state.items() if "fc." not in name}
                | {
                    f"{head}.fc.{part}": torch.ones_like(state[f"fc.{part}"])
                    for head in ("one", "two")
                    for part in ("weight", "bias")
                }
            ),
            r"contains 'one\.fc\.\w+', 'two\.fc\.\w+', which each fit 'fc\.\w+' of the network; save the part",
        ),
        (lambda _: {"a.weight": torch.ones(3)}, "it lacks .* and 43 more and it has a.weight|does not contain the weights"),
    ],
)
def test_names_that_do_not_fit_are_told(
    network: nn.Module, tmp_path: Path, change: Callable[[State], State], sentence: str
) -> None:
    torch.save(change(dict(network.state_dict())), tmp_path / "m.pt")
    with pytest.raises(PetechiaError, match=sentence):
        opened(tmp_path / "m.pt")


def test_the_prefix_of_the_network_wins() -> None:
    names = ["a.weight", "b.weight"]
    given = {"net.a.weight": torch.ones(1), "net.b.weight": torch.ones(2), "other.b.weight": torch.ones(3)}
    found = match_names(given, names, Path("m.pt"))
    assert {name: len(one) for name, one in found.tensors.items()} == {"a.weight": 1, "b.weight": 2}
    assert found.left == ("other.b.weight",)


class Own:
    """A class of the user's, in a checkpoint."""

    ran = False

    def __setstate__(self, _: Any) -> None:
        Own.ran = True


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("name", ["m.pth.tar", "m.ckpt", "M.PTH.TAR", "m.pt"])
def test_checkpoints_with_what_scripts_store_beside(network: nn.Module, tmp_path: Path, name: str, key: str) -> None:
    own = Own()
    own.value = 1  # type: ignore[attr-defined]
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.9), "path": Path("x"), "own": own, "epoch": 3}
    torch.save(beside | {key: network.state_dict()}, tmp_path / name)
    (tmp_path / "M.json").write_text(json.dumps({"preprocess": {"size": 32}, "mean": [0], "std": [1]}))
    torch.testing.assert_close(opened(tmp_path / name), true_logits(network))
    assert not Own.ran


def test_an_old_checkpoint_without_a_zip(network: nn.Module, tmp_path: Path) -> None:
    content = {"epoch": 1, "state_dict": under("module.")(dict(network.state_dict())), "best": 0.5}
    torch.save(content, tmp_path / "m.pth.tar", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(opened(tmp_path / "m.pth.tar"), true_logits(network))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_network_is_refused(network: nn.Module, tmp_path: Path, wrapped: bool) -> None:
    torch.save({"model": network} if wrapped else network, tmp_path / "m.pt")
    with pytest.raises(PetechiaError, match="is not a bare state dict, .* write its state_dict with safetensors"):
        opened(tmp_path / "m.pt")


def test_averaged_weights_alone_are_told(network: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict_ema": network.state_dict(), "epoch": 1}, tmp_path / "m.pt")
    with pytest.raises(PetechiaError, match=r"contains more than weights \(state_dict_ema, epoch\)"):
        opened(tmp_path / "m.pt")


def test_half_precision_is_read(network: nn.Module, tmp_path: Path) -> None:
    torch.save(
        {name: one.half() if one.is_floating_point() else one for name, one in network.state_dict().items()}, tmp_path / "m.pt"
    )
    torch.testing.assert_close(opened(tmp_path / "m.pt"), true_logits(network), atol=0.02, rtol=0.02)


def test_weights_of_a_few_bytes_that_describe_a_giant(tmp_path: Path) -> None:
    torch.save({f"{k}.weight": torch.zeros(1).expand(4096, 4096) for k in range(4)}, tmp_path / "m.pt")
    assert (tmp_path / "m.pt").stat().st_size < 10_000
    with pytest.raises(PetechiaError, match="describes far more weights than it holds"):
        read_weights(tmp_path / "m.pt")


def test_an_archive_whose_members_share_bytes(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100), "b": torch.ones(100)}, tmp_path / "m.pt")
    assert set(read_weights(tmp_path / "m.pt")) == {"a", "b"}
    content = (tmp_path / "m.pt").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        first, second = (one.header_offset for one in file.infolist() if one.filename.endswith(("data/0", "data/1")))
    at = content.rindex(second.to_bytes(4, "little"))
    (tmp_path / "m.pt").write_bytes(content[:at] + first.to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(PetechiaError, match="has members that share bytes"):
        read_weights(tmp_path / "m.pt")


def test_tensors_of_a_petechia_less_file_are_hinted_at(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(PetechiaError, match="weights of a timm network, give timm:NAME:.*m.safetensors with its name"):
        open_classifier(str(tmp_path / "m.safetensors"), RUNTIME)


def test_inert_objects_do_nothing() -> None:
    found = Inert(1, 2, three=3)
    found.__setstate__({"a": 1})
    assert not vars(found)


def test_paths_and_suffixes_as_people_type_them(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    (tmp_path / "m.json").write_text(json.dumps({"preprocess": {"size": 32}, "mean": [0], "std": [1]}))
    torch.testing.assert_close(
        open_classifier("timm:test_resnet:~/m.safetensors", RUNTIME).logits(IMAGES), true_logits(network)
    )
    for name in ("M.ONNX", "M.PT2", "M.SafeTensors"):
        (tmp_path / name).write_bytes(b"none")
        with pytest.raises(PetechiaError, match="not a valid|cannot|not a safetensors"):
            open_classifier(f"~/{name}", RUNTIME)


@pytest.mark.parametrize("form", ["archive/data.pkl", "archive/DATA.PKL", ""], ids=["zip", "capitals", "old"])
def test_a_pickle_that_asks_for_memory_is_refused_before_it_gets_it(tmp_path: Path, form: str) -> None:
    asked = b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x08" + (1 << 62).to_bytes(8, "little") + b"\x85Rs."
    path = tmp_path / "weights.pth"
    if form:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in ((form, asked), ("archive/version", b"3\n")):
                file.writestr(name, content)
    else:
        path.write_bytes(asked)
    with pytest.raises(PetechiaError, match="more than weights|not a bare state dict"):
        read_weights(path)


def test_a_pickle_of_a_million_empty_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02]" + b"(" + b"}" * 17_000_000 + b"e.")
    with pytest.raises(PetechiaError, match="describes its weights in 17,000,006 bytes"):
        read_weights(path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (torch.int8, "numbers of the kind torch.int8"),
        (torch.uint8, "numbers of the kind torch.uint8"),
        (torch.float8_e4m3fn, "numbers of the kind torch.float8_e4m3fn"),
        (torch.complex64, "complex"),
        ("meta", "no numbers"),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_unusual_kinds_are_told(tmp_path: Path, kind: Any, said: str, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    tensor = torch.zeros(3, 4, device="meta") if kind == "meta" else torch.zeros(3, 4).to(kind)
    if suffix == "pth":
        torch.save({"fc.weight": tensor}, path)
    elif kind == "meta":
        pytest.skip("safetensors does not write these")
    else:
        save_file({"fc.weight": tensor}, path)
    with pytest.raises(PetechiaError, match=said):
        read_weights(path)
