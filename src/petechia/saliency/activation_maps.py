"""Class activation maps of several layers and classes, in one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.saliency.black_box import Scores
from petechia.saliency.layers import Layout, find_layers, network_of
from petechia.saliency.methods import Recorded
from petechia.saliency.registry import layer_method

Targets = Tensor | NDArray[np.integer] | Sequence[int] | Sequence[Sequence[int]] | int | None
LAYERS = ("middle", "last")


class Explanation(NamedTuple):
    """What a model says of a batch of images, and where it looks.

    Attributes:
        logits: float32 [B, K].
        targets: int64 [B], or [B, T], the classes that are explained.
        maps: layer → float32 [B, h, w], or [B, T, h, w], at least 0, in the size and scale of the layer.
    """

    logits: Tensor
    targets: Tensor
    maps: dict[str, Tensor]


def cam(
    model: nn.Module, images: Tensor, targets: Targets = None, layers: Sequence[str] = LAYERS, method: str = "gradcam"
) -> dict[str, Tensor]:
    """The maps of `explain` alone: layer → float32 [B, h, w], or [B, T, h, w] for T classes an image."""
    return explain(model, images, targets, layers, method).maps


def explain(
    model: nn.Module, images: Tensor, targets: Targets = None, layers: Sequence[str] = LAYERS, method: str = "gradcam"
) -> Explanation:
    """Explain logits by class activation maps.

    The graph begins at the first of the layers, and no parameter gets a gradient. Computes in evaluation mode, in the
    precision of the caller's autocast, and leaves nothing on the model: no hook, no gradient, no mode. A model is explained
    by one thread at a time.

    "last" and "middle" are, for timm's DenseNets, the final map after norm and ReLU, and the ReLU before the last transition.
    For other convolutional networks "last" is the last part of the trunk whose output is a map larger than 1x1, and "middle"
    the last whose map is at least twice as high (13 is twice 7: strides round up). Parts of the trunk are the network's own
    modules and those in its sequences; the inside of a block does not count, because the block's shortcut passes it by. For
    transformers they are what the last block and the one halfway get, after norm.

    Args:
        model: the classifier; `petechia.models.model.Model`, or any module that gives logits [B, K].
        images: float32 [B, C, H, W], on the model's device; in 0…1 for a `petechia.models.model.Model`.
        targets: class indices: one for all images, [B] or [B, T]; None is each image's class of the highest logit.
        layers: "last", "middle" or names of modules of the network; of one that runs several times the last counts.
        method: one of `petechia.saliency.layer_methods`. "gradcam-skip" is Grad-CAM of a layer fed straight into the head, as
            the code of Nwadike et al. has it: it shows the evidence that the layer would be if nothing followed, not what the
            model makes of it.

    Raises:
        PetechiaError: there is no such layer or method, a layer gives no map, or a target is not a class of the model.
    """
    how = layer_method(method)
    device, layout = images.device.type, Layout.of(network_of(model))
    classify = _in_callers_precision(model, device)
    with _evaluation(model), torch.inference_mode(False), torch.autocast(device, enabled=False):
        images = images.clone() if images.is_inference() else images  # or it could not enter a graph
        modules = find_layers(model, layers, images)
        with torch.no_grad(), _recording(modules, layout) as outputs:
            logits = classify(images)
            if missing := modules.keys() - outputs.keys():
                raise PetechiaError(f"Layer {min(missing)!r} does not run when the model does; name another module.")
        classes = _class_indices(targets, logits)
        columns = classes if classes.ndim == 2 else classes[:, None]
        ordered = {layer: outputs[layer] for layer in modules}
        found = how.maps(Recorded(model, classify, images, logits, columns, ordered, layout))
        maps = {layer: one.transpose(0, 1) if classes.ndim == 2 else one[0] for layer, one in found.items()}
    return Explanation(logits.detach().float(), classes, maps)


def _in_callers_precision(model: nn.Module, device: str) -> Scores:
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def classify(images: Tensor) -> Tensor:
        # Without the cache: what autocast keeps of weights from here, without gradients, would spoil a training that follows.
        with torch.autocast(device, dtype, enabled, cache_enabled=False):
            logits: Tensor = model(images)
        return logits

    return classify


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
def _recording(modules: dict[str, nn.Module], layout: Layout) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of modules. Entered without gradients, it lets the graph begin at the first of these outputs."""
    outputs: dict[str, Tensor] = {}

    def keep(layer: str, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or layout.as_map(output) is None:
            given = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise PetechiaError(f"Layer {layer!r} gives {given}, not a map [B, C, h, w] of several cells; name another module.")
        torch.set_grad_enabled(True)  # until the caller's no_grad ends
        outputs[layer] = output.clone().requires_grad_()  # not itself: a shortcut may use it, past this layer
        return outputs[layer].clone()  # an in-place ReLU that follows must not change what is kept

    with ExitStack() as hooks:
        for layer, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(keep, layer)))
        yield outputs


def _class_indices(targets: Targets, logits: Tensor) -> Tensor:
    """Raises PetechiaError: not classes of the model."""
    count, images = logits.shape[1], len(logits)
    if targets is None:
        return logits.argmax(dim=1)
    # Cloned because a tensor from a caller's inference mode cannot enter a graph.
    classes = torch.as_tensor(targets, dtype=torch.int64, device=logits.device).clone()
    if classes.ndim > 2 or (classes.ndim and len(classes) != images) or (classes.ndim == 2 and not classes.shape[1]):
        raise PetechiaError(
            f"Targets of shape {list(classes.shape)} do not fit {images} images; give one class, [B] or [B, T]."
        )
    wrong = classes[(classes < 0) | (classes >= count)]
    if len(wrong):
        raise PetechiaError(f"Target {int(wrong[0])} is not a class of the model, whose {count} classes count from 0.")
    return classes if classes.ndim else classes.expand(images).clone()
