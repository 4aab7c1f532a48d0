"""The family of Grad-CAM: how a layer's activations, and the class's gradients there, become a map.

Every map is at least 0, in the layer's size and in its method's own scale; only its proportions mean something. Names, papers
and other facts are in `petechia.saliency.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from petechia.core.errors import PetechiaError
from petechia.saliency.black_box import Scores
from petechia.saliency.layers import name_of, network_of
from petechia.saliency.readings import Reading

TINY = 1e-12
MASKS = 64  # that Score-CAM tries at a time


@dataclass(frozen=True)
class Recorded:
    """One forward pass.

    Attributes:
        model: the classifier.
        classify: it, in the precision of the caller.
        images: float32 [B, C, H, W].
        logits: [B, K].
        classes: int64 [B, T], to explain.
        outputs: layer → what it gave; the graph begins at these.
        readings: layer → how its output is a map.
    """

    model: nn.Module
    classify: Scores
    images: Tensor
    logits: Tensor
    classes: Tensor
    outputs: dict[str, Tensor]
    readings: dict[str, Reading]

    def activations(self) -> dict[str, Tensor]:
        """Layer → float32 [B, C, h, w]."""
        return {layer: self._map(layer, output.detach()).float() for layer, output in self.outputs.items()}

    def gradients(self) -> dict[str, Tensor]:
        """Layer → slope of every class's logit, float32 [T, B, C, h, w]; one backward pass for all."""
        gradients = slopes(self.logits, self.classes, list(self.outputs.values()))
        return {
            layer: torch.stack([self._map(layer, one).float() for one in gradient])
            for layer, gradient in zip(self.outputs, gradients, strict=True)
        }

    def _map(self, layer: str, output: Tensor) -> Tensor:
        found = self.readings[layer].as_map(output)
        assert found is not None, "the recording hook has refused such layers"  # noqa: S101
        return found


Maps = dict[str, Tensor]  # layer → [T, B, h, w]


def slopes(logits: Tensor, classes: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of the logits of classes [B, T] with respect to tensors [B, …], each [T, B, …]. An image's depend on it alone."""
    chosen = functional.one_hot(classes.T, logits.shape[1]).to(logits.dtype)
    if len(chosen) == 1:
        return [slope[None] for slope in torch.autograd.grad(logits, inputs, chosen[0])]
    return list(torch.autograd.grad(logits, inputs, chosen, is_grads_batched=True))


def of_gradients(weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Recorded], Maps]:
    """A method that looks at each layer's activations and gradients alone.

    Args:
        weigh: from activations, float32 [B, C, h, w], and slopes of the classes' logits, float32 [T, B, C, h, w], to maps,
            [T, B, h, w]; what is below 0 in them is set to 0.
    """

    def maps(recorded: Recorded) -> Maps:
        activations, gradients = recorded.activations(), recorded.gradients()
        return {layer: weigh(activations[layer], gradients[layer]).relu() for layer in activations}

    return maps


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """Sum over the channels of [B, C, h, w], with weights [T, B, C]."""
    return torch.einsum("bchw,tbc->tbhw", activations, weights)


def _grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    return _weighted(activations, gradients.mean(dim=(3, 4)))


def _grad_cam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    # Equation 19 for exp(logit), whose n-th derivative is exp(logit) times the n-th power of the slope of the logit. Divided by
    # the slope's square, which may be too small for float32; exp(logit) scales the whole map and is left out.
    below = 2 + activations.sum(dim=(2, 3))[..., None, None] * gradients
    return _weighted(activations, _quotient(gradients.relu(), below).sum(dim=(3, 4)))


def _xgrad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    totals = activations.sum(dim=(2, 3))
    sums = (gradients * activations).sum(dim=(3, 4))
    return _weighted(activations, _quotient(sums, totals))


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """0 where nothing can be divided by."""
    divides = below.abs() > TINY
    return torch.where(divides, above / torch.where(divides, below, 1), 0)


def _hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    return torch.einsum("bchw,tbchw->tbhw", activations, gradients)


def _layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    return torch.einsum("bchw,tbchw->tbhw", activations, gradients.relu())


def eigen_cam(recorded: Recorded) -> Maps:
    """The first principal component of the activations, the same for all classes (Muhammad and Yeasin 2020)."""
    maps = {}
    for layer, activations in recorded.activations().items():
        left, values, _ = torch.linalg.svd(activations.flatten(2).mT, full_matrices=False)
        principal = left[:, :, 0] * values[:, :1]
        principal = principal * principal.sum(dim=1, keepdim=True).sign()  # a component and its opposite are the same
        one = principal.unflatten(1, activations.shape[2:]).relu()
        maps[layer] = one.expand(recorded.classes.shape[1], *one.shape)
    return maps


def score_cam(recorded: Recorded) -> Maps:
    """Channels weighted by what they show as masks of the image (Wang et al. 2020, algorithm 1)."""
    with torch.no_grad():
        black = recorded.classify(torch.zeros_like(recorded.images[:1]))
        return {
            layer: _weighted(activations, _score_weights(recorded, activations, black)).relu()
            for layer, activations in recorded.activations().items()
        }


def _score_weights(recorded: Recorded, activations: Tensor, black: Tensor) -> Tensor:
    """By how much each channel, as a mask of the image, raises the logit above a black image's; [T, B, C], sums of 1."""
    images, classes = recorded.images, recorded.classes
    weights = activations.new_zeros(classes.shape[1], *activations.shape[:2])
    for row, image in enumerate(images):
        raised = []
        for channels in torch.split(activations[row], MASKS):
            masks = functional.interpolate(channels[:, None], images.shape[2:], mode="bilinear")
            low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
            raised.append(recorded.classify(image * (masks - low) / (high - low).clamp(min=TINY)) - black)
        weights[:, row] = torch.cat(raised)[:, classes[row]].float().softmax(dim=0).T
    return weights


def skipping(recorded: Recorded) -> Maps:
    """Grad-CAM of the layer as if it were the last: straight into pooling and classifier, past the layers between.

    Raises:
        PetechiaError: the model has no separate head, or the layer does not fit it.
    """
    head = getattr(network_of(recorded.model), "forward_head", None)
    logits_of = getattr(recorded.model, "logits_of", lambda outputs: outputs)  # of a softmax
    if head is None:
        raise PetechiaError(f"{name_of(recorded.model)} has no forward_head to feed a layer into; choose another method.")
    maps = {}
    for layer, activations in recorded.activations().items():
        cut = activations.requires_grad_()
        with torch.enable_grad():
            try:
                logits = logits_of(head(cut))
            except RuntimeError:
                raise PetechiaError(
                    f"Layer {layer!r} of {name_of(recorded.model)}, {list(cut.shape)}, does not fit its head, so nothing can "
                    f"be skipped; choose another layer or method."
                ) from None
        (gradients,) = slopes(logits, recorded.classes, [cut])
        maps[layer] = _grad_cam(cut.detach(), gradients).relu()
    return maps


grad_cam = of_gradients(_grad_cam)
grad_cam_pp = of_gradients(_grad_cam_pp)
xgrad_cam = of_gradients(_xgrad_cam)
hires_cam = of_gradients(_hires_cam)
layer_cam = of_gradients(_layer_cam)
