"""What every explanation method must do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from petechia.models.classifier import Classifier
from petechia.saliency import METHODS, LayerMethod, ScoreMethod, explain
from petechia.testing.assertions import require

TOLERANCE = 1e-4  # of a map's largest value: other batches may be added up in another order


def check_explanation(name: str, classifier: Classifier, layers: Sequence[str] | None = None) -> None:
    """Check a registered method on a model.

    Its maps have the right shape and type, are finite and at least 0, are the same the second time, and those of an image do
    not depend on the others of its batch; it leaves the model as it was.

    Args:
        name: of the method.
        classifier: to explain; with a network for a method that needs one. Networks with random weights will do.
        layers: of it, for methods that need them; None is "middle", if there is one, and "last".

    Raises:
        AssertionError: says what it does wrong.
    """
    require(name in METHODS, f"{name!r} is not among the registered methods, {', '.join(METHODS)}.")
    method = METHODS[name]
    for field in ("label", "summary", "source"):
        require(getattr(method, field), f"The method {name!r} has no {field}.")
    size = classifier.preprocess.size
    chance = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3 if classifier.colour else 1, size, size, generator=chance).to(classifier.runtime.device)
    if isinstance(method, LayerMethod):
        check_layer_method(name, classifier.require_network(), images, layers)
    else:
        check_score_method(method, classifier, images)


def check_layer_method(name: str, network: nn.Module, images: Tensor, layers: Sequence[str] | None) -> None:
    """A method that needs a network: one class an image, and two.

    Args:
        name: of the method.
        network: gives logits [B, K], K at least 2.
        images: float32 [B, C, H, W].
        layers: of the network; None is "middle", if there is one, and "last".

    Raises:
        AssertionError: says what it does wrong.
    """
    state, modes = _copied(network), [module.training for module in network.modules()]
    before = images.clone()
    found = explain(network, images, 1, layers, name)
    shapes = {layer: tuple(one.shape[1:]) for layer, one in explain(network, images, 1, layers, "gradcam").maps.items()}
    require(set(found.maps) == set(shapes), f"It gives maps of {', '.join(found.maps)}; asked for are {', '.join(shapes)}.")
    for layer, heat in found.maps.items():
        _check_map(heat, (len(images), *shapes[layer]), f"layer {layer}")
        again = explain(network, images, 1, [layer], name).maps[layer]
        require(_close(heat, again), f"The map of layer {layer} differs when it is asked for again, alone.")
        alone = explain(network, images[1:2], 1, [layer], name).maps[layer]
        require(_close(heat[1:2], alone), f"The map of an image at layer {layer} depends on the others of its batch.")
        several = explain(network, images, [[1, 0]] * len(images), [layer], name).maps[layer]
        _check_map(several, (len(images), 2, *shapes[layer]), f"layer {layer}, two classes,")
        require(_close(several[:, 0], heat), f"The map of a class at layer {layer} depends on the others that are asked for.")
    require(torch.equal(images, before), "It changes the images.")
    require(_same(state, _copied(network)), "It changes the weights of the network.")
    require([module.training for module in network.modules()] == modes, "It leaves modules in another mode.")
    require(all(one.grad is None for one in network.parameters()), "It leaves gradients on the parameters.")


def check_score_method(method: ScoreMethod, classifier: Classifier, images: Tensor) -> None:
    """A method that needs a model's answers alone.

    Args:
        method: to check.
        classifier: with 2 classes or more.
        images: float32 [B, C, H, W], B at least 2.

    Raises:
        AssertionError: says what it does wrong.
    """

    def scores(given: Tensor) -> Tensor:
        return classifier.logits(given).sigmoid().to(given.device)

    before, targets = images.clone(), torch.arange(len(images)) % 2
    heat = method.heat(scores, images, targets)
    require(torch.equal(images, before), "It changes the images.")
    require(heat.ndim == 3, f"It gives heat of shape {list(heat.shape)}, not [B, h, w].")
    height, width = images.shape[2:]
    fits = 1 < heat.shape[1] <= height and 1 < heat.shape[2] <= width
    require(fits, f"It gives {heat.shape[1]} x {heat.shape[2]} cells for images of {height} x {width} pixels.")
    _check_map(heat, (len(images), *heat.shape[1:]), "")
    require(_close(heat, method.heat(scores, images, targets)), "It gives something else the second time; use a seed.")
    alone = method.heat(scores, images[1:2], targets[1:2])
    require(_close(heat[1:2], alone), "The heat of an image depends on the others of its batch.")


def _check_map(heat: Tensor, shape: tuple[int, ...], where: str) -> None:
    what = f"The map of {where}" if where else "The heat"
    require(tuple(heat.shape) == shape, f"{what} has shape {list(heat.shape)}, not {list(shape)}.")
    require(heat.dtype == torch.float32, f"{what} is {heat.dtype}, not float32.")
    require(bool(heat.isfinite().all()), f"{what} has NaN or infinity.")
    require(bool((heat >= 0).all()), f"{what} has values below 0; rectify it.")
    require(not heat.requires_grad, f"{what} still has a graph; detach it.")


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * max(float(one.max()), 1e-12))


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
