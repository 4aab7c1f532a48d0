import gc
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.graphs import REHEARSALS
from petechia.data import Preprocess
from petechia.models.model import Architecture, Model, create
from petechia.saliency import Explainer, cam, explain
from tests.core.rerunning import Rerunning

CLASSES = ("A", "B", "C")
DENSE_LAYERS = ("features.transition3.norm", "features.norm5")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(arch: str, size: int = 64, channels: Literal[1, 3] = 1) -> Model:
    """A network with weights that give heat: new ones end residual blocks with norms of weight 0, so a map may be negative."""
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


def from_the_whole_graph(model: Model, image: Tensor, target: int, layer: str) -> tuple[Tensor, Tensor]:
    """Activations and gradients of one image at one layer."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output.retain_grad()
        kept.append(output)
        return output.clone()

    handle = model.network.get_submodule(layer).register_forward_hook(keep)
    model(image[None])[0, target].backward()
    handle.remove()
    model.zero_grad(set_to_none=True)
    assert kept[0].grad is not None
    return kept[0].detach()[0], kept[0].grad[0]


def slow_grad_cam(model: Model, image: Tensor, target: int, layer: str) -> Tensor:
    """Compute one image, one layer and one channel at a time."""
    activation, gradient = from_the_whole_graph(model, image, target, layer)
    total = torch.zeros(activation.shape[1:])
    for channel, slope in zip(activation, gradient, strict=True):
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
    maps = cam(tiny, batch(), targets, ("layer2", "last", "layer1.0.conv1", "middle"))
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
    maps = cam(dense, batch(2), targets)
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
    for ours, truth in zip(cam(dense, batch(2), [2, 0]).values(), theirs, strict=True):
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
    maps = cam(model, batch(2), 1, ("middle", "last", middle, last))
    assert same(maps["middle"], maps[middle])
    assert same(maps["last"], maps[last])
    assert maps["middle"].shape[1] >= 2 * maps["last"].shape[1] > 2
    assert untouched(model)


def test_a_map_of_one_cell_is_not_the_last(tiny: Model) -> None:
    maps = cam(tiny, batch(2, 32), 0)
    assert {layer: tuple(m.shape) for layer, m in maps.items()} == {"middle": (2, 4, 4), "last": (2, 2, 2)}


def test_grey_images_explain_a_network_of_three_channels() -> None:
    model = network("test_resnet", channels=3)
    maps = cam(model, batch(), 0)
    assert all(same(m, maps[layer]) for layer, m in cam(model, batch().expand(-1, 3, -1, -1), 0).items())


def test_an_oblong_image_has_an_oblong_map(tiny: Model) -> None:
    maps = cam(tiny, batch()[:, :, :48], 0)
    assert {layer: tuple(m.shape) for layer, m in maps.items()} == {"middle": (4, 3, 4), "last": (4, 2, 2)}


def test_a_map_is_read_before_the_relu_that_overwrites_it(tiny: Model) -> None:
    for name in ("layer3.0.bn1", "layer3.0.act1"):
        truth = torch.stack([slow_grad_cam(tiny, image, 1, name) for image in batch()])
        assert close(cam(tiny, batch(), 1, (name,))[name], truth, 1e-5)


def test_heat_against_the_class_is_0(tiny: Model) -> None:
    layer = tiny.network.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    nn.init.constant_(layer.weight, -1)
    assert not cam(tiny, batch(), 0)["last"].any()


def test_what_passes_a_layer_by_does_not_count_wherever_the_graph_begins() -> None:
    model = network("test_convnext")
    gamma = model.network.get_parameter("stages.2.blocks.1.gamma")
    nn.init.ones_(gamma)  # it is 1e-6, and the block nothing beside its shortcut
    for name in ("stages.2.blocks.1.shortcut", "stages.2.blocks.1.conv_dw"):  # the former returns its very input
        alone, after = (cam(model, batch(), 0, layers)[name] for layers in ((name,), ("stem", name)))
        assert close(after, alone, 1e-5)


def test_one_forward_and_one_short_backward_pass(dense: Model) -> None:
    runs: list[str] = []
    first, last = dense.network.get_submodule("features.conv0"), dense.network.get_submodule("features.norm5")
    handles = [
        first.register_forward_hook(lambda _m, _i, output: runs.append(f"forward, graph {output.requires_grad}")),
        last.register_full_backward_hook(lambda *_: runs.append("backward")),
    ]
    cam(dense, batch(2), 0)
    for handle in handles:
        handle.remove()
    assert runs == ["forward, graph False", "backward"]


def test_an_image_has_the_same_map_in_any_batch(tiny: Model) -> None:
    together = cam(tiny, batch(), np.array([0, 1, 2, 1], np.int8))["middle"]
    for row, target in enumerate([0, 1, 2, 1]):
        alone = cam(tiny, batch()[row : row + 1], target)["middle"][0]
        assert close(together[row], alone, 1e-5)
    assert cam(tiny, batch()[:0], 0)["last"].shape == (0, 2, 2)


def test_the_callers_modes_do_not_matter_and_stay(tiny: Model) -> None:
    truth = cam(tiny, batch(), 1)
    with torch.inference_mode():
        assert all(same(a, b) for a, b in zip(cam(tiny, batch(), 1).values(), truth.values(), strict=True))
        maps = cam(tiny, batch(), torch.ones(4, dtype=torch.int64))
        assert torch.is_inference_mode_enabled()
    assert not any(m.requires_grad or m.is_inference() for m in maps.values())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = cam(tiny, batch(), 1)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert all(maps[layer].dtype == torch.float32 and close(maps[layer], truth[layer], 0.1) for layer in truth)
    assert torch.is_grad_enabled()
    tiny.requires_grad_(False)
    assert same(cam(tiny, batch(), 1, ("middle",))["middle"], truth["middle"])
    assert not any(p.requires_grad for p in tiny.parameters())


def test_training_mode_is_left_and_restored_module_by_module(tiny: Model) -> None:
    truth = cam(tiny, batch(), 1)["last"]
    tiny.train()
    frozen = tiny.network.get_submodule("layer1").eval()
    state = {name: tensor.clone() for name, tensor in tiny.network.state_dict().items()}
    assert same(cam(tiny, batch(), 1)["last"], truth)
    assert tiny.training
    assert tiny.network.get_submodule("layer2.0").training
    assert not any(module.training for module in frozen.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny.network.state_dict().items())


def test_nothing_is_left_when_something_raises(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.train()
    with pytest.raises(RuntimeError):
        cam(tiny, torch.rand(2, 5, 64, 64), 0)
    monkeypatch.setattr(tiny.network, "forward_head", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cam(tiny, batch(), 0)
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
            cam(tiny, batch(), 0, ("last", layer))
    tiny.network.add_module("spare", nn.Identity())
    with pytest.raises(PetechiaError, match=r"Layer 'spare' does not run"):
        cam(tiny, batch(), 0, ("spare",))
    assert untouched(tiny)


@pytest.mark.parametrize(
    ("arch", "middle", "last", "shape"),
    [
        ("test_vit", "blocks.2.norm1", "blocks.5.norm1", (4, 4)),
        ("test_mambaout", "stages.2", "stages.3", (2, 2)),
    ],
)
def test_tokens_and_channels_at_the_end_become_maps(arch: str, middle: str, last: str, shape: tuple[int, int]) -> None:
    model = network(arch)
    maps = cam(model, batch(2), 1, ("middle", "last", middle, last))
    assert same(maps["middle"], maps[middle])
    assert same(maps["last"], maps[last])
    assert maps["last"].shape == (2, *shape)
    assert untouched(model)


def test_tokens_agree_with_a_slow_grad_cam() -> None:
    model = network("test_vit")
    prefix = int(model.network.num_prefix_tokens)  # type: ignore[arg-type]
    activations, gradients = from_the_whole_graph(model, batch(1)[0], 2, "blocks.2.norm1")
    truth = torch.stack([(gradients[prefix:].mean(dim=0) * token).sum() for token in activations[prefix:]]).clamp(min=0)
    assert close(cam(model, batch(1), 2, ("middle",))["middle"].flatten(), truth, 1e-5)


def test_images_too_small_for_maps_are_refused_with_a_sentence(tiny: Model) -> None:
    with pytest.raises(PetechiaError, match=r"no map larger than 1x1 to explain images of 2 x 2 pixels"):
        cam(tiny, batch(1, 2), 0)
    with pytest.raises(PetechiaError, match=r"so there is no 'middle'"):
        cam(tiny, batch(1, 3), 0, ("middle",))
    assert set(cam(tiny, batch(1, 3), 0)) == {"last"}  # a middle layer that nobody asked for is not missed


@pytest.mark.parametrize("target", [3, -1])
def test_targets_must_be_classes(tiny: Model, target: int) -> None:
    with pytest.raises(PetechiaError, match=rf"Target {target} is not a class of the model, whose 3 classes"):
        cam(tiny, batch(), [0, target, 1, 1])


def test_a_layer_of_one_cell_is_no_map(tiny: Model) -> None:
    with pytest.raises(PetechiaError, match=r"Layer 'layer4' gives \[4, \d+, 1, 1\], not a map .* of several cells"):
        cam(tiny, batch(size=16), 0, ("layer4",))


def test_methods_are_named(tiny: Model) -> None:
    with pytest.raises(PetechiaError, match=r"'gradcan' is not a method; the methods are gradcam, gradcam\+\+, xgradcam"):
        cam(tiny, batch(), 0, method="gradcan")


@pytest.mark.parametrize("targets", [[0, 1], [[0, 1]], torch.zeros(4, 0, dtype=torch.int64), torch.zeros(4, 1, 1)])
def test_targets_must_fit_the_images(tiny: Model, targets: Any) -> None:
    with pytest.raises(PetechiaError, match=r"Targets of shape .* do not fit 4 images; give one class, \[B\] or \[B, T\]"):
        cam(tiny, batch(), targets)


def test_several_classes_take_one_pass(dense: Model) -> None:
    runs: list[str] = []
    cam(dense, batch(2), 0)  # finds the layers
    handle = dense.network.get_submodule("features.norm5").register_forward_hook(lambda *_: runs.append("forward"))
    together = cam(dense, batch(2), [[2, 0, 1], [1, 1, 0]])
    handle.remove()
    assert runs == ["forward"]
    for layer, maps in together.items():
        assert maps.shape[:2] == (2, 3)
        for column, targets in enumerate(([2, 1], [0, 1], [1, 0])):
            assert close(maps[:, column], cam(dense, batch(2), targets)[layer], 1e-4)


def test_without_targets_each_images_highest_class_is_explained(tiny: Model) -> None:
    found = explain(tiny, batch())
    with torch.no_grad():
        assert torch.allclose(found.logits, tiny(batch()), atol=1e-6)
    assert torch.equal(found.targets, found.logits.argmax(dim=1))
    assert all(same(maps, found.maps[layer]) for layer, maps in cam(tiny, batch(), found.targets).items())


def test_any_module_that_gives_logits_is_explained() -> None:
    torch.manual_seed(0)  # a few random networks this small answer to nothing
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    nn.init.ones_(plain.get_parameter("8.weight"))
    maps = cam(plain, batch(2, 16), 1, ("middle", "last", "4"))
    assert {layer: tuple(m.shape) for layer, m in maps.items()} == {"middle": (2, 8, 8), "last": (2, 4, 4), "4": (2, 8, 8)}
    assert same(maps["middle"], maps["4"])


def test_an_image_whose_every_gradient_is_0_has_a_map_of_0(tiny: Model) -> None:
    layer = tiny.network.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    for method in ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam-skip"):
        assert not cam(tiny, batch(), 0, ("last",), method)["last"].any()  # NaN counts as true


def test_many_calls_do_not_grow_memory(tiny: Model) -> None:
    def living() -> int:
        gc.collect()
        return sum(type(one) is Tensor for one in gc.get_objects())

    cam(tiny, batch(1, 32), 0)
    before = living()
    for _ in range(200):
        cam(tiny, batch(1, 32), 0)
    assert living() <= before
    assert untouched(tiny)


def test_training_goes_on_under_the_same_autocast(tiny: Model) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        cam(tiny, batch(), 0)
        tiny(batch()).sum().backward()
    weight = tiny.network.get_parameter("fc.weight").grad, tiny.network.get_parameter("layer2.0.conv1.weight").grad
    assert all(gradient is not None and gradient.any() for gradient in weight)


def test_captums_methods_take_our_models(tiny: Model) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    attributions, gap = captum.IntegratedGradients(tiny).attribute(batch(2), target=1, return_convergence_delta=True)
    assert attributions.shape == (2, 1, 64, 64)
    assert gap.abs().max() < 0.1 * attributions.sum(dim=(1, 2, 3)).abs().max() + 0.1


@pytest.mark.parametrize("targets", [None, 2, [0, 2, 1], [[0, 1], [1, 2], [2, 0]]])
def test_recorded_explanations_equal_those_that_are_made_anew(tiny: Model, targets: Any) -> None:
    recorder, kept = Rerunning(), []
    explainer = Explainer(tiny, recorder=recorder)
    for number in range(REHEARSALS + 3):
        images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(number))
        kept.append((explainer(images, targets), explain(tiny, images, targets)))
    for found, wanted in kept:  # each has tensors of its own, though a replay writes to the same ones
        assert torch.equal(found.logits, wanted.logits)
        assert torch.equal(found.targets, wanted.targets)
        for layer, one in wanted.maps.items():
            assert torch.equal(found.maps[layer], one)
    assert recorder.recorded == [3]


def test_a_recorded_explainer_refuses_what_is_no_class(tiny: Model) -> None:
    explainer = Explainer(tiny, recorder=Rerunning())
    for _ in range(REHEARSALS + 2):
        explainer(torch.rand(2, 1, 32, 32), [0, 1])
    with pytest.raises(PetechiaError, match="99 is not a class"):
        explainer(torch.rand(2, 1, 32, 32), [0, 99])
