"""Class activation maps of several layers and classes, in one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petechia.core.errors import PetechiaError
from petechia.core.graphs import Recorder, Replayed, keeps_tensors
from petechia.saliency.black_box import Scores
from petechia.saliency.layers import find_layers
from petechia.saliency.methods import Recorded
from petechia.saliency.recording import recording, undisturbed
from petechia.saliency.registry import layer_method

Targets = Tensor | NDArray[np.integer] | Sequence[int] | Sequence[Sequence[int]] | int | None


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
    model: nn.Module, images: Tensor, targets: Targets = None, layers: Sequence[str] | None = None, method: str = "gradcam"
) -> dict[str, Tensor]:
    """The maps of `explain` alone: layer → float32 [B, h, w], or [B, T, h, w] for T classes an image."""
    return explain(model, images, targets, layers, method).maps


def explain(
    model: nn.Module, images: Tensor, targets: Targets = None, layers: Sequence[str] | None = None, method: str = "gradcam"
) -> Explanation:
    """Explain logits by class activation maps.

    The graph begins at the first of the layers, and no parameter gets a gradient. Computes in evaluation mode, in the
    precision of the caller's autocast, and leaves nothing on the model: no hook, no gradient, no mode. A model is explained
    by one thread at a time.

    "last" is the last map of the image, larger than 1x1, that everything goes through and that the scores depend on at these
    places; "middle" is the last part of the trunk before it whose map is at least twice as high (13 is twice 7: strides round
    up). Parts of the trunk are the network's own modules and those in its sequences; the inside of a block does not count,
    because the block's shortcut passes it by. Where all maps have one size, "middle" is the one halfway. For transformers of
    one size the layers are what the last block and the one halfway get, after norm; for timm's DenseNets the final map after
    norm and ReLU, and the ReLU before the last transition. Finding them takes a few passes, once a network and size.

    Args:
        model: the classifier; `petechia.models.model.Model`, or any module that gives logits [B, K].
        images: float32 [B, C, H, W], on the model's device; in 0…1 for a `petechia.models.model.Model`.
        targets: class indices: one for all images, [B] or [B, T]; None is each image's class of the highest logit.
        layers: "last", "middle" or names of modules of the network; of one that runs several times the last counts. None is
            "middle", where the network has one, and "last".
        method: one of `petechia.saliency.layer_methods`. "gradcam-skip" is Grad-CAM of a layer fed straight into the head, as
            the code of Nwadike et al. has it: it shows the evidence that the layer would be if nothing followed, not what the
            model makes of it.

    Raises:
        PetechiaError: there is no such layer or method, a layer gives no map, or a target is not a class of the model.
    """
    return Explainer(model, layers, method)(images, targets)


class Explainer:
    """Explains batches of images of one model as `explain` does, in the precision of the autocast in which it was made.

    With a recorder, what a GPU does for batches of a size is recorded once and replayed (`petechia.core.graphs`). The weights
    may change between calls.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str] | None = None, method: str = "gradcam", recorder: Recorder | None = None
    ) -> None:
        """Take a model; `layers` and `method` as in `explain`.

        Raises:
            PetechiaError: there is no such method.
        """
        self.model = model
        self.layers = layers
        self.method = layer_method(method)
        self._classify = _in_callers_precision(model)
        self._count: int | None = None  # of the model's classes
        self._pass = Replayed(self._explained, recorder, "explaining", lambda: not keeps_tensors(model))

    def __call__(self, images: Tensor, targets: Targets = None) -> Explanation:
        """Explain a batch; arguments, result and errors are those of `explain`."""
        given = None if targets is None else _fitting(targets, images)
        size = getattr(
            getattr(self.model, "input_spec", None), "batch", None
        )  # of a program that takes no other number of images
        if not size or len(images) in (0, size):
            return self._explain(images, given)
        parts = []
        for start in range(0, len(images), size):
            rows = torch.arange(start, start + size, device=images.device).clamp(max=len(images) - 1)
            of_rows = given[rows] if given is not None and given.ndim else given
            parts.append(self._explain(images[rows], of_rows))
        logits, classes = (
            torch.cat(some)[: len(images)] for some in zip(*((one.logits, one.targets) for one in parts), strict=True)
        )
        maps = {layer: torch.cat([one.maps[layer] for one in parts])[: len(images)] for layer in parts[0].maps}
        return Explanation(logits, classes, maps)

    def _explain(self, images: Tensor, targets: Tensor | None) -> Explanation:
        if targets is not None and self._count is not None:
            _require_classes(targets, self._count)
        logits, classes, maps = self._pass(images) if targets is None else self._pass(images, targets)
        if self._pass.recorder is not None:  # the next replay writes there
            logits, classes, maps = logits.clone(), classes.clone(), {layer: one.clone() for layer, one in maps.items()}
        return Explanation(logits, classes, maps)

    def _explained(self, images: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What an `Explanation` has; all that a GPU does for it."""
        model = self.model
        with undisturbed(model), torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            images = images.clone() if images.is_inference() else images  # or it could not enter a graph
            chosen = find_layers(model, self.layers, images)
            with torch.no_grad(), recording(chosen) as outputs:
                logits = self._classify(images)
            if missing := chosen.keys() - outputs.keys():
                raise PetechiaError(f"Layer {min(missing)!r} does not run when the model does; name another module.")
            classes = self._class_indices(targets, logits)
            columns = classes if classes.ndim == 2 else classes[:, None]
            readings = {layer: one.reading for layer, one in chosen.items() if one.reading}
            ordered = {layer: outputs[layer] for layer in chosen}
            found = self.method.maps(Recorded(model, self._classify, images, logits, columns, ordered, readings))
            maps = {layer: one.transpose(0, 1) if classes.ndim == 2 else one[0] for layer, one in found.items()}
        return logits.detach().float(), classes, maps

    def _class_indices(self, targets: Tensor | None, logits: Tensor) -> Tensor:
        if targets is None:
            return logits.argmax(dim=1)
        if self._count is None:  # else they were checked before: a graph cannot look at values
            _require_classes(targets, logits.shape[1])
            self._count = logits.shape[1]
        classes = targets.to(logits.device)
        return classes if classes.ndim else classes.expand(len(logits)).clone()


def _in_callers_precision(model: nn.Module) -> Scores:
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device.type
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def classify(images: Tensor) -> Tensor:
        # Without the cache: what autocast keeps of weights from here, without gradients, would spoil a training that follows.
        with torch.autocast(device, dtype, enabled, cache_enabled=False):
            logits: Tensor = model(images)
        return logits

    return classify


def _fitting(targets: Tensor | NDArray[np.integer] | Sequence[Any] | int, images: Tensor) -> Tensor:
    """Targets as a tensor. Raises PetechiaError: they do not fit the images."""
    # Cloned because a tensor from a caller's inference mode cannot enter a graph.
    with torch.inference_mode(False):
        classes = torch.as_tensor(targets, dtype=torch.int64, device=images.device).clone()
    if classes.ndim > 2 or (classes.ndim and len(classes) != len(images)) or (classes.ndim == 2 and not classes.shape[1]):
        raise PetechiaError(
            f"Targets of shape {list(classes.shape)} do not fit {len(images)} images; give one class, [B] or [B, T]."
        )
    return classes


def _require_classes(targets: Tensor, count: int) -> None:
    """Raises PetechiaError: not classes of the model."""
    wrong = targets[(targets < 0) | (targets >= count)]
    if len(wrong):
        raise PetechiaError(f"Target {int(wrong[0])} is not a class of the model, whose {count} classes count from 0.")
