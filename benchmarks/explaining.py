"""Grad-CAM of two layers against other packages and a forward pass alone: DenseNet-121, 224 x 224, batches of 16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torchcam.methods import GradCAM as TorchCam

from benchmarks.timing import Timing, rates
from petechia.core.runtime import Compute, Runtime
from petechia.data import Preprocess
from petechia.models.model import Architecture, Model, create
from petechia.saliency import cam
from petechia.saliency.finding import OF_DENSENET

SIZE, BATCH, CLASSES = 224, 16, 14
LAYERS = ("middle", "last")


def bare(model: Model, images: Tensor, targets: list[int]) -> None:
    """Run a forward pass without gradients."""
    with torch.inference_mode():
        model(images)


def ours(model: Model, images: Tensor, targets: list[int]) -> dict[str, Tensor]:
    """Explain both layers in one pass."""
    return cam(model, images, targets, LAYERS)


def grad_cam(model: Model, images: Tensor, targets: list[int]) -> Any:
    """Run the package grad-cam, which returns one map, the mean over the layers, at the size of the image."""
    modules = [model.network.get_submodule(OF_DENSENET[layer]) for layer in LAYERS]
    with GradCAM(model, modules) as peer:
        return peer(images, [ClassifierOutputTarget(target) for target in targets])


def captum(model: Model, images: Tensor, targets: list[int]) -> dict[str, Tensor]:
    """Run the package captum, with one pass per layer."""
    modules = {layer: model.network.get_submodule(OF_DENSENET[layer]) for layer in LAYERS}
    return {
        layer: LayerGradCam(model, module).attribute(images, torch.tensor(targets), relu_attributions=True)[:, 0].detach()
        for layer, module in modules.items()
    }


def torchcam(model: Model, images: Tensor, targets: list[int]) -> dict[str, Tensor]:
    """Run the package torchcam."""
    names = [f"network.{OF_DENSENET[layer]}" for layer in LAYERS]
    with TorchCam(model, [*names], input_shape=tuple(images.shape[1:])) as peer:
        maps = peer(targets, model(images), normalized=False)
    return dict(zip(LAYERS, (one.detach() for one in maps), strict=True))


PEERS = {"forward alone": bare, "petechia": ours, "torchcam": torchcam, "captum": captum, "grad-cam": grad_cam}


def disagreement(model: Model, images: Tensor, targets: list[int]) -> dict[str, float]:
    """Return the largest difference from the peers that return a map per layer; maps are divided by their maxima."""
    found = ours(model, images, targets)
    differences = {}
    for name, peer in (("torchcam", torchcam), ("captum", captum)):
        theirs = peer(model, images, targets)
        differences[name] = max(
            float((_normalised(found[layer]) - _normalised(theirs[layer].float())).abs().max()) for layer in LAYERS
        )
    return differences


def _normalised(maps: Tensor) -> Tensor:
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def _worker(runtime: Runtime, peer: Callable[[Model, Tensor, list[int]], Any], *inputs: Any) -> Callable[[], int]:
    def explain() -> int:
        with runtime.autocast():
            peer(*inputs)
        return BATCH

    return explain


def run(rounds: int = 7) -> tuple[dict[str, dict[str, Timing]], dict[str, float]]:
    """Return images per second of every package by precision, and the largest differences in fp32."""
    runtime = Compute().start()
    model = runtime.to_device(create(Architecture(), tuple("ABCDEFGHIJKLMN"), Preprocess(size=SIZE), 0)).eval()
    chance = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, SIZE, SIZE, generator=chance).to(runtime.device, memory_format=torch.channels_last)
    targets = [row % CLASSES for row in range(BATCH)]
    differences = disagreement(model, images, targets)
    timings = {}
    for bf16 in (False, True) if runtime.bf16 else (False,):
        precise = Runtime(runtime.device, bf16)
        able = {
            name: peer for name, peer in PEERS.items() if not (bf16 and peer is grad_cam)
        }  # it uses numpy, which has no bf16
        work = {name: _worker(precise, peer, model, images, targets) for name, peer in able.items()}
        rates(work, 1)
        timings["bf16" if bf16 else "fp32"] = rates(work, rounds)
    return timings, differences
