"""Grad-CAM at several layers in one pass, and how far its heat moved and whether it found the trigger."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models import DenseNet
from torch import Tensor, nn

from petechia.errors import PetechiaError
from petechia.model import Model

Numbers = NDArray[np.float64]

# The paper's middle layer is Keras' pool4_relu: norm and ReLU before the last transition's convolution.
OF_DENSENET = {"middle": "features.transition3.norm", "last": "features.norm5"}


def grad_cam(
    model: Model,
    images: Tensor,
    targets: Tensor | NDArray[np.integer] | Sequence[int] | int,
    layers: Sequence[str] = ("middle", "last"),
) -> dict[str, Tensor]:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the target's logit: one forward and one backward pass.

    Computes in float32 and in evaluation mode, whatever the caller's modes are, and leaves nothing on the model: no hook, no
    gradient, no mode. A model is explained by one thread at a time.

    "last" and "middle" are, for DenseNets, the final map after norm and ReLU, and the ReLU before the last transition. For
    other networks "last" is the last part of the trunk whose output is a map larger than 1x1, and "middle" the last whose
    map is at least twice as high (13 is twice 7: strides round up). Parts of the trunk are the network's own modules and
    those in its sequences; the inside of a block does not count, because the block's shortcut passes it by.

    Args:
        model: the classifier.
        images: float32 [B, C, H, W] in 0…1, on the model's device.
        targets: int [B], a class index for each image, or one for all.
        layers: "last", "middle" or names of modules of `model.network`; of one that runs several times the last counts.

    Returns:
        Layer → maps, float32 [B, h, w], at least 0, in the size and scale of the layer.

    Raises:
        PetechiaError: a layer is unknown or gives no map, or a target is not a class of the model.
    """
    with _evaluation(model), torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        classes = _class_indices(model, targets, images)
        modules = _find(model, layers, images)
        with torch.no_grad(), _recording(modules) as activations:
            logits = model(images)
            if missing := modules.keys() - activations.keys():
                raise PetechiaError(f"Layer {min(missing)!r} does not run when the model does; name another module.")
            score = logits.gather(1, classes[:, None]).sum()  # an image's map depends on its own logit alone
        gradients = torch.autograd.grad(score, [activations[layer] for layer in modules])
        return {
            layer: _weigh(activations[layer].detach(), gradient) for layer, gradient in zip(modules, gradients, strict=True)
        }


def _weigh(activation: Tensor, gradient: Tensor) -> Tensor:
    return torch.einsum("bchw,bc->bhw", activation, gradient.mean(dim=(2, 3))).relu()


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    # Modules may differ in their modes, so `model.train()` would not bring them back.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _recording(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of modules. Entered without gradients, it lets the graph begin at the first of these outputs."""
    outputs: dict[str, Tensor] = {}

    def keep(layer: str, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise PetechiaError(f"Layer {layer!r} gives {_shape(output)}, not a map [B, C, h, w]; name another module.")
        torch.set_grad_enabled(True)  # until the caller's no_grad ends
        outputs[layer] = output.clone().requires_grad_()  # not itself: a shortcut may use it, past this layer
        return outputs[layer].clone()  # an in-place ReLU that follows must not change what is kept

    with ExitStack() as hooks:
        for layer, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(keep, layer)))
        yield outputs


def _class_indices(model: Model, targets: Tensor | NDArray[np.integer] | Sequence[int] | int, images: Tensor) -> Tensor:
    # Cloned because a tensor from a caller's inference mode cannot enter a graph.
    classes = torch.as_tensor(targets, dtype=torch.int64, device=images.device).expand(len(images)).clone()
    count = len(model.description.classes)
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise PetechiaError(f"Target {int(wrong[0])} is not a class of the model, whose {count} classes count from 0.")
    return classes


def _find(model: Model, layers: Sequence[str], images: Tensor) -> dict[str, nn.Module]:
    """Layer → module.

    Raises:
        PetechiaError: there is no such layer.
    """
    modules = {name: module for name, module in model.network.named_modules() if name}
    names = _last_and_middle(model, images) if {"last", "middle"} & set(layers) else {}
    arch = model.description.architecture.arch
    if "middle" in layers and "middle" not in names:
        raise PetechiaError(f"No map of {arch} is twice as high as its last one, so there is no 'middle'; name a module.")
    found = {}
    for layer in layers:
        name = names.get(layer, layer)
        if name not in modules:
            near = difflib.get_close_matches(layer, ["last", "middle", *modules], 5)
            raise PetechiaError(f"{arch} has no layer {layer!r}; near names: {', '.join(near) or 'last, middle'}.")
        found[layer] = modules[name]
    return found


def _last_and_middle(model: Model, images: Tensor) -> dict[str, str]:
    """The names of the modules that "last" and, where there is one, "middle" stand for.

    Raises:
        PetechiaError: the network has no map.
    """
    if isinstance(model.network, DenseNet):
        return OF_DENSENET
    heights = _heights(model, images)
    if not heights:
        raise PetechiaError(
            f"{model.description.architecture.arch} has no map larger than 1x1 to explain images of {images.shape[2]} x "
            f"{images.shape[3]} pixels with; take larger images."
        )
    last, height = heights[-1]
    higher = [name for name, other in heights if other > height and (other + 1) // 2 >= height]
    return {"last": last} | ({"middle": higher[-1]} if higher else {})


def _heights(model: Model, images: Tensor) -> list[tuple[str, int]]:
    """Parts of the trunk that give a map larger than 1x1, each with its height, in the order in which they end.

    Raises:
        PetechiaError: what the head gets is not a map.
    """
    height, width = images.shape[2:]
    heights: list[tuple[str, int]] = []

    def keep(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if _is_map(output, height, width) and output.shape[2:].numel() > 1:
            heights.append((name, output.shape[2]))

    with ExitStack() as hooks, torch.no_grad():
        for name, module in _trunk(model.network):
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        features = model.network.forward_features(model.mean.new_zeros(1, model.mean.shape[1], height, width))  # type: ignore[operator]
    if not _is_map(features, height, width):
        raise PetechiaError(
            f"{model.description.architecture.arch} ends in features {_shape(features)}, not in a map [B, C, h, w], which "
            f"Grad-CAM needs; explain a convolutional network."
        )
    return heights


def _trunk(parent: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in parent.named_children():
        yield prefix + name, module
        if isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _trunk(module, f"{prefix}{name}.")


def _is_map(output: object, height: int, width: int) -> TypeGuard[Tensor]:
    """Whether it has the image's proportions; tokens do not, nor does a map with its channels at the end."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    return bool(abs(output.shape[2] * width - output.shape[3] * height) <= max(height, width))  # each may be rounded by 1


def _shape(output: object) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__


@dataclass(frozen=True)
class Localisation:
    """Whether the heat found the trigger, and how far it moved; float64 [N] each, NaN where a map that it needs is all 0.

    Attributes:
        energy: `box_energy` of the triggered images.
        clean_energy: the same of their clean twins, what the box holds without a trigger.
        distance: `peak_distance` of the triggered images, in pixels.
        clean_distance: the same of their clean twins.
        shift: how far the centroid moved, as a fraction of the image's side.
        divergence: between the two maps, in 0…1.
    """

    energy: Numbers
    clean_energy: Numbers
    distance: Numbers
    clean_distance: Numbers
    shift: Numbers
    divergence: Numbers


def localise(
    clean_maps: NDArray[np.float32],
    triggered_maps: NDArray[np.float32],
    centres: NDArray[np.floating],
    boxes: NDArray[np.integer],
    size: int,
) -> Localisation:
    """All numbers of one layer.

    Args:
        clean_maps: float32 [N, h, w], of the clean images.
        triggered_maps: float32 [N, h, w], of the same images with the trigger.
        centres: float [N, 2], row and column of the trigger's centre, as in `peak_distance`.
        boxes: int [N, 4], the trigger's box, as in `box_energy`.
        size: side of the input in pixels.
    """
    return Localisation(
        box_energy(triggered_maps, boxes, size),
        box_energy(clean_maps, boxes, size),
        peak_distance(triggered_maps, centres, size),
        peak_distance(clean_maps, centres, size),
        *heat_shift(clean_maps, triggered_maps),
    )


def centroid(maps: NDArray[np.float32]) -> Numbers:
    """Centre of mass of the heat.

    Args:
        maps: float32 [N, h, w], at least 0.

    Returns:
        Row and column as fractions of the image's height and width, float64 [N, 2]; the middle is 0.5. NaN for a map of 0.
    """
    shares = _shares(maps)
    rows, columns = (_cell_centres(side) for side in maps.shape[1:])
    return np.stack([shares.sum(axis=2) @ rows, shares.sum(axis=1) @ columns], axis=1)


def peak(maps: NDArray[np.float32]) -> Numbers:
    """Centre of the hottest cell, of equally hot ones the first; arguments and result as those of `centroid`."""
    rows, columns = (_cell_centres(side) for side in maps.shape[1:])
    row, column = np.divmod(maps.reshape(len(maps), rows.size * columns.size).argmax(axis=1), columns.size)
    peaks = np.stack([rows[row], columns[column]], axis=1)
    peaks[maps.max(axis=(1, 2), initial=0) == 0] = np.nan
    return peaks


def box_energy(maps: NDArray[np.float32], boxes: NDArray[np.integer], size: int) -> Numbers:
    """Share of the heat inside a box, after bilinear upsampling to the input, which makes layers comparable.

    The upsampling is that of `torch.nn.functional.interpolate(align_corners=False)`. It is linear in rows and in columns, so
    its sum over a box is a weighted sum of the cells and no large map is made.

    Args:
        maps: float32 [N, h, w], at least 0.
        boxes: int [N, 4], top, left, height and width in pixels of the input; what lies outside of it does not count.
        size: side of the input in pixels.

    Returns:
        float64 [N] in 0…1; NaN for a map of 0 and for a box without a pixel.
    """
    top, left, height, width = np.asarray(boxes, np.int64).T
    (rows, all_rows), (columns, all_columns) = (
        _upsampled_sums(cells, start, start + extent, size)
        for cells, start, extent in zip(maps.shape[1:], (top, left), (height, width), strict=True)
    )
    inside = np.einsum("nhw,nh,nw->n", maps, rows, columns)
    total = np.einsum("nhw,h,w->n", maps, all_rows, all_columns)
    defined = (total > 0) & rows.any(axis=1) & columns.any(axis=1)
    return np.where(defined, inside / np.where(defined, total, 1), np.nan)


def peak_distance(maps: NDArray[np.float32], centres: NDArray[np.floating], size: int) -> Numbers:
    """Distance from the peak to the trigger's centre.

    The peak is that of the map itself. Upsampled bilinearly it would be nowhere hotter than at the centre of the hottest
    cell, but for a cell at the border it would be as hot all the way out, and the first such pixel is no peak.

    Args:
        maps: float32 [N, h, w], at least 0.
        centres: float [N, 2], row and column in pixels of the input, counted from its corner: a box's are
            `top + height / 2` and `left + width / 2`.
        size: side of the input in pixels.

    Returns:
        Pixels of the input, float64 [N]; NaN for a map of 0.
    """
    return np.asarray(np.linalg.norm(peak(maps) * size - centres, axis=1))


def heat_shift(clean_maps: NDArray[np.float32], triggered_maps: NDArray[np.float32]) -> tuple[Numbers, Numbers]:
    """How the trigger moved the heat.

    Args:
        clean_maps: float32 [N, h, w], at least 0.
        triggered_maps: float32 [N, h, w], of the same images with the trigger.

    Returns:
        Distance between the centroids as a fraction of the image's side, and Jensen-Shannon divergence (Lin 1991, base 2)
        of the maps as distributions, 0 for equal and 1 for disjoint ones; float64 [N] each, NaN where a map is all 0.
    """
    distance = np.linalg.norm(centroid(triggered_maps) - centroid(clean_maps), axis=1)
    clean, triggered = _shares(clean_maps), _shares(triggered_maps)
    divergence = _entropy((clean + triggered) / 2) - (_entropy(clean) + _entropy(triggered)) / 2
    return distance, divergence.clip(0, 1)


def _shares(maps: NDArray[np.float32]) -> Numbers:
    """Maps that sum to 1; NaN for a map of 0."""
    totals = maps.sum(axis=(1, 2), dtype=np.float64, keepdims=True)
    return np.asarray(maps / np.where(totals > 0, totals, np.nan))


def _entropy(shares: Numbers) -> Numbers:
    logs = np.log2(np.where(shares > 0, shares, 1))
    return np.asarray(-(shares * logs).sum(axis=(1, 2)))


def _cell_centres(count: int) -> Numbers:
    return (np.arange(count) + 0.5) / count


def _upsampled_sums(cells: int, start: NDArray[np.int64], end: NDArray[np.int64], size: int) -> tuple[Numbers, Numbers]:
    """What each cell adds to the sum over the upsampled pixels start … end - 1, float64 [N, cells], and over all of them."""
    places = _cell_centres(size) * cells - 0.5
    weights = [np.interp(places, np.arange(cells), cell) for cell in np.eye(cells)]
    sums = np.concatenate([np.zeros((1, cells)), np.cumsum(weights, axis=1).T])
    return sums[end.clip(0, size)] - sums[start.clip(0, size)], sums[-1]
