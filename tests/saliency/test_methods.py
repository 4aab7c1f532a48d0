"""Every method against its formula, written out with loops over one image at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.models.model import Model
from petechia.saliency import cam, layer_methods
from tests.saliency.test_activation_maps import batch, from_the_whole_graph, network

Array = NDArray[np.float64]
LAYERS = ("layer3", "layer4")
TARGETS = [2, 0, 1]


@pytest.fixture(scope="module")
def tiny() -> Model:
    return network("test_resnet")


def seen(model: Model, image: Tensor, target: int, layer: str) -> tuple[Array, Array]:
    """Activations and gradients of one image, [C, h, w]."""
    activations, gradients = from_the_whole_graph(model, image, target, layer)
    return activations.double().numpy(), gradients.double().numpy()


def grad_cam_pp(activations: Array, gradients: Array) -> Array:
    total = np.zeros(activations.shape[1:])
    for channel, slope in zip(activations, gradients, strict=True):
        weight = 0.0
        for place in np.ndindex(slope.shape):
            below = 2 * slope[place] ** 2 + channel.sum() * slope[place] ** 3
            if below != 0:
                weight += slope[place] ** 2 / below * max(slope[place], 0)
        total += weight * channel
    return total


def xgrad_cam(activations: Array, gradients: Array) -> Array:
    return np.asarray(
        sum(
            (slope * channel).sum() / channel.sum() * channel
            for channel, slope in zip(activations, gradients, strict=True)
            if channel.sum() > 0
        )
    )


def hires_cam(activations: Array, gradients: Array) -> Array:
    return np.asarray((activations * gradients).sum(axis=0))


def layer_cam(activations: Array, gradients: Array) -> Array:
    return np.asarray((activations * np.maximum(gradients, 0)).sum(axis=0))


def eigen_cam(activations: Array, _gradients: Array) -> Array:
    places = activations.reshape(len(activations), -1).T
    values, vectors = np.linalg.eigh(places.T @ places)
    assert values[-1] > 1.01 * values[-2]  # or the first component is anybody's guess
    first = places @ vectors[:, -1]
    return np.asarray((first if first.sum() > 0 else -first).reshape(activations.shape[1:]))


FORMULAS: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam++": grad_cam_pp,
    "xgradcam": xgrad_cam,
    "hirescam": hires_cam,
    "layercam": layer_cam,
    "eigencam": eigen_cam,
}


def agree(maps: Tensor, truth: Array) -> bool:
    truth = np.maximum(truth, 0)
    assert truth.max() > 0  # or nothing is compared
    return bool(np.abs(maps.double().numpy() - truth).max() <= 1e-4 * truth.max())


@pytest.mark.parametrize("method", FORMULAS)
def test_a_method_is_its_formula(tiny: Model, method: str) -> None:
    images = batch(3)
    maps = cam(tiny, images, TARGETS, LAYERS, method)
    for layer in LAYERS:
        for row, target in enumerate(TARGETS):
            assert agree(maps[layer][row], FORMULAS[method](*seen(tiny, images[row], target, layer)))


@pytest.mark.parametrize("method", FORMULAS)
def test_faint_gradients_count_like_strong_ones(method: str) -> None:
    faint = network("test_resnet")
    with torch.no_grad():
        faint.network.get_parameter("fc.weight").mul_(1e-7)
    (image,) = batch(1)
    maps = cam(faint, image[None], 2, ("layer4",), method)["layer4"]
    assert agree(maps[0], FORMULAS[method](*seen(faint, image, 2, "layer4")))


def test_score_cam_is_its_algorithm(tiny: Model) -> None:
    images = batch(2)
    maps = cam(tiny, images, [2, 0], ("layer4",), "scorecam")["layer4"]
    with torch.no_grad():
        for row, target in enumerate([2, 0]):
            activations, _ = seen_without_gradients(tiny, images[row])
            raised = []
            for channel in activations:
                large = nn.functional.interpolate(channel[None, None], (64, 64), mode="bilinear")[0, 0]
                reach = float(large.max() - large.min())
                mask = (large - large.min()) / reach if reach else torch.zeros(64, 64)
                raised.append(float(tiny(images[row][None] * mask)[0, target] - tiny(torch.zeros(1, 1, 64, 64))[0, target]))
            weights = np.exp(raised) / np.exp(raised).sum()
            truth = sum(weight * channel.double().numpy() for weight, channel in zip(weights, activations, strict=True))
            assert agree(maps[row], np.asarray(truth))


def seen_without_gradients(model: Model, image: Tensor) -> tuple[Tensor, None]:
    kept: list[Tensor] = []
    handle = model.network.get_submodule("layer4").register_forward_hook(lambda _m, _i, output: kept.append(output))
    model(image[None])
    handle.remove()
    return kept[0][0], None


@pytest.mark.parametrize("method", sorted(set(layer_methods()) - {"scorecam"}))
def test_several_classes_are_the_single_ones(tiny: Model, method: str) -> None:
    images, pairs = batch(2), [[2, 0], [1, 2]]
    together = cam(tiny, images, pairs, ("last",), method)["last"]
    for column in range(2):
        alone = cam(tiny, images, [pair[column] for pair in pairs], ("last",), method)["last"]
        assert torch.allclose(together[:, column], alone, atol=1e-5 * float(alone.max()))


def test_skipping_feeds_the_layer_into_the_head() -> None:
    dense = network("densenet121")
    maps = cam(dense, batch(2), [2, 0], method="gradcam-skip")
    classifier = dense.network.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    kept: list[Tensor] = []
    handle = dense.network.get_submodule("features.transition3.norm").register_forward_hook(lambda _m, _i, o: kept.append(o))
    with torch.no_grad():
        dense(batch(2))
    handle.remove()
    for row, target in enumerate([2, 0]):  # mean pooling: each channel's slope is its weight in the classifier
        weights = classifier.weight[target].detach().double().numpy() / 16
        assert agree(maps["middle"][row], np.einsum("c,chw->hw", weights, kept[0][row].double().numpy()))
    true = cam(dense, batch(2), [2, 0])
    assert torch.allclose(maps["last"], true["last"], atol=1e-6)  # nothing is skipped
    assert not torch.allclose(maps["middle"] / maps["middle"].max(), true["middle"] / true["middle"].max(), atol=0.05)


def test_a_layer_that_does_not_fit_the_head_cannot_skip(tiny: Model) -> None:
    with pytest.raises(PetechiaError, match=r"Layer 'middle' of test_resnet, \[2, \d+, 4, 4\], does not fit its head"):
        cam(tiny, batch(2), 0, method="gradcam-skip")


def test_methods_without_gradients_run_where_there_are_none(tiny: Model) -> None:
    with torch.inference_mode():
        for method in ("eigencam", "scorecam"):
            assert torch.isfinite(cam(tiny, batch(1, 32), 0, ("middle",), method)["middle"]).all()
