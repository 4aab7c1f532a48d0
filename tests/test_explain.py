from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from petechia.data import Preprocess
from petechia.errors import PetechiaError
from petechia.explain import box_energy, centroid, grad_cam, heat_shift, localise, peak, peak_distance
from petechia.model import Architecture, Model, create

CLASSES = ("A", "B", "C")
DENSE_LAYERS = ("features.transition3.norm", "features.norm5")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(arch: str, size: int = 64, channels: Literal[1, 3] = 1) -> Model:
    """With weights that give heat: new ones end residual blocks in norms of weight 0, and may make a whole map negative."""
    model = create(Architecture(arch=arch, channels=channels), CLASSES, Preprocess(size=size), 0).eval()
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=chance) + 0.5)
            if isinstance(module, nn.Linear) and module.out_features == len(CLASSES):
                module.weight.copy_(torch.rand(module.weight.shape, generator=chance) - 0.3)
    return model


@pytest.fixture
def tiny() -> Model:
    return network("test_resnet")


@pytest.fixture(scope="module")
def dense() -> Model:
    return network("densenet121")


def batch(n: int = 4, size: int = 64) -> Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def slow_grad_cam(model: Model, image: Tensor, target: int, layer: str) -> Tensor:
    """One image, one layer, one channel after the other, from the whole graph."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output.retain_grad()
        kept.append(output)
        return output.clone()

    handle = model.network.get_submodule(layer).register_forward_hook(keep)
    model(image[None])[0, target].backward()
    handle.remove()
    model.zero_grad(set_to_none=True)
    activation, gradient = kept[0].detach()[0], kept[0].grad
    assert gradient is not None
    total = torch.zeros(activation.shape[1:])
    for channel, slope in zip(activation, gradient[0], strict=True):
        total += slope.sum() / slope.numel() * channel
    return total.clamp(min=0)


def close(maps: Tensor, truth: Tensor, tolerance: float) -> bool:
    assert float(truth.max()) > 0  # or nothing is compared
    return bool((maps - truth).abs().max() <= tolerance * truth.max())


def same(maps: Tensor, truth: Tensor) -> bool:
    assert float(truth.max()) > 0
    return torch.equal(maps, truth)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def untouched(model: nn.Module) -> bool:
    return hooks(model) == 0 and all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_tiny_network_agrees_with_a_slow_grad_cam(tiny: Model) -> None:
    targets = torch.tensor([0, 1, 2, 0])
    maps = grad_cam(tiny, batch(), targets, ("layer2", "last", "layer1.0.conv1", "middle"))
    assert list(maps) == ["layer2", "last", "layer1.0.conv1", "middle"]
    layers = {"layer2": "layer2", "last": "layer4", "layer1.0.conv1": "layer1.0.conv1", "middle": "layer3"}
    for layer, name in layers.items():
        truth = torch.stack([slow_grad_cam(tiny, image, int(t), name) for image, t in zip(batch(), targets, strict=True)])
        assert maps[layer].dtype == torch.float32
        assert maps[layer].shape == truth.shape
        assert close(maps[layer], truth, 1e-5)
    assert untouched(tiny)


def test_densenet_agrees_with_a_slow_grad_cam(dense: Model) -> None:
    targets = [2, 0]
    maps = grad_cam(dense, batch(2), targets)
    assert {layer: tuple(m.shape) for layer, m in maps.items()} == {"middle": (2, 4, 4), "last": (2, 2, 2)}
    for layer, name in zip(("middle", "last"), DENSE_LAYERS, strict=True):
        truth = torch.stack([slow_grad_cam(dense, image, t, name) for image, t in zip(batch(2), targets, strict=True)])
        assert close(maps[layer], truth, 1e-4)
    assert untouched(dense)


def test_densenet_agrees_with_torchcam(dense: Model) -> None:
    methods = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    names = [f"network.{name}" for name in DENSE_LAYERS]
    with methods.GradCAM(dense, target_layer=names, input_shape=(1, 64, 64)) as extractor:
        theirs = extractor([2, 0], dense(batch(2)), normalized=False)
    dense.zero_grad(set_to_none=True)
    for ours, truth in zip(grad_cam(dense, batch(2), [2, 0]).values(), theirs, strict=True):
        assert close(ours / ours.max(), truth / truth.max(), 1e-4)


def test_densenets_layers_are_the_papers(dense: Model) -> None:
    outputs = []
    for name in DENSE_LAYERS:
        handle = dense.network.get_submodule(name).register_forward_hook(lambda _m, _i, output: outputs.append(output))
        with torch.no_grad():
            dense(batch(1))
        handle.remove()
    assert [output.shape[1] for output in outputs] == [1024, 1024]
    assert all(output.min() == 0 for output in outputs)  # after the ReLU


@pytest.mark.parametrize(
    ("arch", "middle", "last"),
    [
        ("resnet18", "layer3", "layer4"),
        ("test_resnet", "layer3", "layer4"),
        ("test_efficientnet", "blocks.3", "bn2"),
        ("test_convnext", "stages.2", "norm_pre"),
        ("test_nfnet", "stages.2", "final_act"),
        ("test_byobnet", "stages.2", "final_conv"),
    ],
)
def test_last_and_middle_of_other_networks(arch: str, middle: str, last: str) -> None:
    model = network(arch)
    maps = grad_cam(model, batch(2), 1, ("middle", "last", middle, last))
    assert same(maps["middle"], maps[middle])
    assert same(maps["last"], maps[last])
    assert maps["middle"].shape[1] >= 2 * maps["last"].shape[1] > 2
    assert untouched(model)


def test_a_map_of_one_cell_is_not_the_last(tiny: Model) -> None:
    maps = grad_cam(tiny, batch(2, 32), 0)
    assert {layer: tuple(m.shape) for layer, m in maps.items()} == {"middle": (2, 4, 4), "last": (2, 2, 2)}


def test_grey_images_explain_a_network_of_three_channels() -> None:
    model = network("test_resnet", channels=3)
    maps = grad_cam(model, batch(), 0)
    assert all(same(m, maps[layer]) for layer, m in grad_cam(model, batch().expand(-1, 3, -1, -1), 0).items())


def test_an_oblong_image_has_an_oblong_map(tiny: Model) -> None:
    maps = grad_cam(tiny, batch()[:, :, :48], 0)
    assert {layer: tuple(m.shape) for layer, m in maps.items()} == {"middle": (4, 3, 4), "last": (4, 2, 2)}


def test_a_map_is_read_before_the_relu_that_overwrites_it(tiny: Model) -> None:
    for name in ("layer3.0.bn1", "layer3.0.act1"):
        truth = torch.stack([slow_grad_cam(tiny, image, 1, name) for image in batch()])
        assert close(grad_cam(tiny, batch(), 1, (name,))[name], truth, 1e-5)


def test_heat_against_the_class_is_0(tiny: Model) -> None:
    layer = tiny.network.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    nn.init.constant_(layer.weight, -1)
    assert not grad_cam(tiny, batch(), 0)["last"].any()


def test_what_passes_a_layer_by_does_not_count_wherever_the_graph_begins() -> None:
    model = network("test_convnext")
    gamma = model.network.get_parameter("stages.2.blocks.1.gamma")
    nn.init.ones_(gamma)  # it is 1e-6, and the block nothing beside its shortcut
    for name in ("stages.2.blocks.1.shortcut", "stages.2.blocks.1.conv_dw"):  # the former returns its very input
        alone, after = (grad_cam(model, batch(), 0, layers)[name] for layers in ((name,), ("stem", name)))
        assert close(after, alone, 1e-5)


def test_one_forward_and_one_short_backward_pass(dense: Model) -> None:
    runs: list[str] = []
    first, last = dense.network.get_submodule("features.conv0"), dense.network.get_submodule("features.norm5")
    handles = [
        first.register_forward_hook(lambda _m, _i, output: runs.append(f"forward, graph {output.requires_grad}")),
        last.register_full_backward_hook(lambda *_: runs.append("backward")),
    ]
    grad_cam(dense, batch(2), 0)
    for handle in handles:
        handle.remove()
    assert runs == ["forward, graph False", "backward"]


def test_an_image_has_the_same_map_in_any_batch(tiny: Model) -> None:
    together = grad_cam(tiny, batch(), np.array([0, 1, 2, 1], np.int8))["middle"]
    for row, target in enumerate([0, 1, 2, 1]):
        alone = grad_cam(tiny, batch()[row : row + 1], target)["middle"][0]
        assert close(together[row], alone, 1e-5)
    assert grad_cam(tiny, batch()[:0], 0)["last"].shape == (0, 2, 2)


def test_the_callers_modes_do_not_matter_and_stay(tiny: Model) -> None:
    truth = grad_cam(tiny, batch(), 1)
    with torch.inference_mode():
        assert all(same(a, b) for a, b in zip(grad_cam(tiny, batch(), 1).values(), truth.values(), strict=True))
        maps = grad_cam(tiny, batch(), torch.ones(4, dtype=torch.int64))
        assert torch.is_inference_mode_enabled()
    assert not any(m.requires_grad or m.is_inference() for m in maps.values())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = grad_cam(tiny, batch(), 1)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert all(same(maps[layer], truth[layer]) for layer in truth)
    assert torch.is_grad_enabled()
    tiny.requires_grad_(False)
    assert same(grad_cam(tiny, batch(), 1, ("middle",))["middle"], truth["middle"])
    assert not any(p.requires_grad for p in tiny.parameters())


def test_training_mode_is_left_and_restored_module_by_module(tiny: Model) -> None:
    truth = grad_cam(tiny, batch(), 1)["last"]
    tiny.train()
    frozen = tiny.network.get_submodule("layer1").eval()
    state = {name: tensor.clone() for name, tensor in tiny.network.state_dict().items()}
    assert same(grad_cam(tiny, batch(), 1)["last"], truth)
    assert tiny.training
    assert tiny.network.get_submodule("layer2.0").training
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny.network.state_dict().items())


def test_fifty_calls_leave_nothing(tiny: Model) -> None:
    for _ in range(50):
        grad_cam(tiny, batch(1, 32), 0)
    assert untouched(tiny)


def test_nothing_is_left_when_something_raises(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.train()
    with pytest.raises(RuntimeError):
        grad_cam(tiny, torch.rand(2, 5, 64, 64), 0)
    monkeypatch.setattr(tiny.network, "forward_head", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grad_cam(tiny, batch(), 0)
    assert untouched(tiny)
    assert tiny.training
    assert torch.is_grad_enabled()


def test_layers_that_cannot_be_explained_are_named(tiny: Model) -> None:
    sentences = {
        "layer44": r"test_resnet has no layer 'layer44'; near names: layer4",
        "middel": r"no layer 'middel'; near names: middle",
        "": r"no layer ''; near names: last, middle",
        "fc": r"Layer 'fc' gives \[4, 3\], not a map \[B, C, h, w\]",
    }
    for layer, sentence in sentences.items():
        with pytest.raises(PetechiaError, match=sentence):
            grad_cam(tiny, batch(), 0, ("last", layer))
    tiny.network.add_module("spare", nn.Identity())
    with pytest.raises(PetechiaError, match=r"Layer 'spare' does not run"):
        grad_cam(tiny, batch(), 0, ("spare",))
    assert untouched(tiny)


@pytest.mark.parametrize(("arch", "features"), [("test_vit", r"\[1, 17, 64\]"), ("test_mambaout", r"\[1, 2, 2, 64\]")])
def test_networks_without_maps_are_refused_with_a_sentence(arch: str, features: str) -> None:
    model = network(arch)
    with pytest.raises(PetechiaError, match=rf"{arch} ends in features {features}, not in a map .* convolutional network"):
        grad_cam(model, batch(), 0)
    assert untouched(model)


def test_images_too_small_for_maps_are_refused_with_a_sentence(tiny: Model) -> None:
    with pytest.raises(PetechiaError, match=r"no map larger than 1x1 to explain images of 2 x 2 pixels"):
        grad_cam(tiny, batch(1, 2), 0)
    with pytest.raises(PetechiaError, match=r"so there is no 'middle'"):
        grad_cam(tiny, batch(1, 3), 0)


@pytest.mark.parametrize("target", [3, -1])
def test_targets_must_be_classes(tiny: Model, target: int) -> None:
    with pytest.raises(PetechiaError, match=rf"Target {target} is not a class of the model, whose 3 classes"):
        grad_cam(tiny, batch(), [0, target, 1, 1])


def one_hot(*places: tuple[int, int], shape: tuple[int, int] = (4, 4)) -> np.ndarray[Any, np.dtype[np.float32]]:
    maps = np.zeros((1, *shape), np.float32)
    for place in places:
        maps[0][place] = 3
    return maps


def test_centroid_by_hand() -> None:
    assert np.allclose(centroid(one_hot((0, 3))), [[0.125, 0.875]])
    assert np.allclose(centroid(one_hot((0, 0), (2, 3))), [[0.375, 0.5]])
    assert np.allclose(centroid(np.ones((1, 7, 7), np.float32)), 0.5)
    assert np.allclose(centroid(np.array([[[1, 0, 0], [0, 0, 3]]], np.float32)), [[0.625, 2 / 3]])  # 2 x 3


def test_peak_by_hand() -> None:
    maps = np.array([[[1, 0, 2], [0, 4, 3]]], np.float32)
    assert np.allclose(peak(maps), [[0.75, 0.5]])
    assert np.allclose(peak(one_hot((0, 3), (2, 1))), [[0.125, 0.875]])  # equally hot: the first


def test_peak_distance_by_hand() -> None:
    centres = np.array([[8.0, 56.0]])
    assert np.allclose(peak_distance(one_hot((0, 3)), centres, 64), 0)
    assert np.allclose(peak_distance(one_hot((3, 3)), centres, 64), 48)
    assert np.allclose(peak_distance(one_hot((3, 3)), np.array([[53.0, 60.0]]), 64), 5)


def test_box_energy_by_hand() -> None:
    even = np.ones((3, 4, 4), np.float32)
    boxes = np.array([[0, 0, 8, 8], [3, 2, 4, 1], [6, 6, 9, 9]])
    assert np.allclose(box_energy(even, boxes, 8), [1, 4 / 64, 4 / 64])
    # A cell of 2 becomes, in a row of 4 pixels, 1 3/4 1/4 0.
    corner = np.array([[[1, 0], [0, 0]]], np.float32)
    assert np.allclose(box_energy(corner, np.array([[0, 0, 1, 2]]), 4), 1.75 / 4)
    assert np.allclose(box_energy(corner, np.array([[2, 3, 2, 1]]), 4), 0)


def test_box_energy_is_that_of_the_upsampled_map() -> None:
    rng = np.random.default_rng(0)
    for shape, size in (((7, 7), 64), ((14, 14), 61), ((3, 5), 32), ((1, 2), 16), ((9, 9), 6)):
        maps = rng.random((20, *shape), np.float32) * (rng.random((20, *shape)) < 0.5)
        maps[:, 0, 0] += 0.1
        corners = rng.integers(0, size - 4, (20, 2))
        boxes = np.concatenate([corners, rng.integers(1, 5, (20, 2))], axis=1)
        large = nn.functional.interpolate(torch.from_numpy(maps)[:, None].double(), (size, size), mode="bilinear")[:, 0].numpy()
        truth = [
            image[top : top + height, left : left + width].sum() / image.sum()
            for image, (top, left, height, width) in zip(large, boxes, strict=True)
        ]
        assert np.allclose(box_energy(maps.astype(np.float32), boxes, size), truth, atol=1e-9)


def test_a_box_without_a_pixel_has_no_energy_rather_than_0() -> None:
    boxes = np.array([[3, 3, 0, 0], [3, 3, 2, 0], [8, 0, 2, 2], [-3, 0, 2, 2]])
    assert np.isnan(box_energy(np.ones((4, 4, 4), np.float32), boxes, 8)).all()


def test_heat_shift_by_hand() -> None:
    distance, divergence = heat_shift(one_hot((0, 0)), one_hot((3, 0)))
    assert np.allclose((distance, divergence), ([0.75], [1]))  # disjoint
    maps = np.random.default_rng(0).random((5, 7, 7), np.float32)
    distance, divergence = heat_shift(maps, 4 * maps)
    assert np.allclose((distance, divergence), 0)
    assert (divergence >= 0).all()
    # p = (1, 0), q = (1/2, 1/2): H(3/4, 1/4) - (0 + 1) / 2
    distance, divergence = heat_shift(one_hot((0, 0), shape=(1, 2)), one_hot((0, 0), (0, 1), shape=(1, 2)))
    assert np.allclose((distance, divergence), ([0.25], [2 - 0.75 * np.log2(3) - 0.5]))


NUMBERS: list[Callable[[Any], Any]] = [
    centroid,
    peak,
    lambda maps: box_energy(maps, np.full((len(maps), 4), 1), 8),
    lambda maps: peak_distance(maps, np.ones((len(maps), 2)), 8),
    lambda maps: np.stack(heat_shift(maps, np.ones_like(maps)), axis=1),
    lambda maps: np.stack(heat_shift(np.ones_like(maps), maps), axis=1),
]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_map_of_0_has_no_numbers_and_spoils_no_other(number: Callable[[Any], Any]) -> None:
    maps = np.stack([one_hot((1, 2))[0], np.zeros((4, 4), np.float32)])
    values = number(maps)
    assert values.dtype == np.float64
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1]).all()
    assert len(number(maps[:0])) == 0


def test_localise_gathers_the_numbers() -> None:
    clean = np.random.default_rng(0).random((3, 4, 4), np.float32)
    triggered = clean[:, ::-1].copy()
    boxes = np.array([[3, 3, 2, 2]] * 3)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    found = localise(clean, triggered, centres, boxes, 8)
    assert np.array_equal(found.energy, box_energy(triggered, boxes, 8))
    assert np.array_equal(found.clean_energy, box_energy(clean, boxes, 8))
    assert np.array_equal(found.distance, peak_distance(triggered, centres, 8))
    assert np.array_equal(found.clean_distance, peak_distance(clean, centres, 8))
    assert np.array_equal((found.shift, found.divergence), heat_shift(clean, triggered))
