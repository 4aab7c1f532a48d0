"""The explanation methods, ours and those of other packages, with what is known of each.

Nothing heavy is imported here, so that the command line's help can list them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from petechia.core.errors import PetechiaError
from petechia.core.registry import Registry, deferred

if TYPE_CHECKING:
    from torch import Tensor

    from petechia.saliency.black_box import Scores
    from petechia.saliency.methods import Maps, Recorded


@dataclass(frozen=True)
class LayerMethod:
    """An explanation by the layers of a network, and by gradients there.

    Attributes:
        label: for people: "Grad-CAM".
        summary: what weighs the activations, in one line.
        source: the paper, and where in it.
        maps: of one recorded pass: layer → float32 [T, B, h, w], at least 0, in the layer's size. The methods that are built on
            slopes alone are made with `petechia.saliency.of_gradients`.
        interactive: whether the viewer offers it: it answers at once, and for any layer.
    """

    label: str
    summary: str
    source: str
    maps: Callable[[Recorded], Maps]
    interactive: bool = True

    needs_network: ClassVar[bool] = True


@dataclass(frozen=True)
class ScoreMethod:
    """An explanation by a model's answers alone, for black boxes too. It asks for many of them, so the viewer has none.

    Attributes:
        label: for people: "RISE".
        summary: what is changed in an image, in one line.
        source: the paper, and where in it.
        heat: gets the model (float32 [N, C, H, W] → scores [N, K]), images, float32 [B, C, H, W], and classes, int64 [B];
            returns float32 [B, h, w], at least 0.
    """

    label: str
    summary: str
    source: str
    heat: Callable[[Scores, Tensor, Tensor], Tensor]

    needs_network: ClassVar[bool] = False
    interactive: ClassVar[bool] = False


Method = LayerMethod | ScoreMethod


def _fitting(name: str, found: object) -> Method:
    if not isinstance(found, LayerMethod | ScoreMethod):
        raise TypeError(f"{found!r} is neither a petechia.saliency.LayerMethod nor a ScoreMethod")
    return found


METHODS: Registry[Method] = Registry("explanation method", "petechia.explanations", _fitting)
_LAYERS, _SCORES = "petechia.saliency.methods", "petechia.saliency.black_box"
_OURS: dict[str, Method] = {
    "gradcam": LayerMethod(
        "Grad-CAM",
        "mean slope of the class's logit",
        "Selvaraju et al. 2017, equations 1 and 2",
        deferred(f"{_LAYERS}:grad_cam"),
    ),
    "gradcam++": LayerMethod(
        "Grad-CAM++",
        "positive slopes, weighted by where they count",
        "Chattopadhay et al. 2018, equations 10 and 19",
        deferred(f"{_LAYERS}:grad_cam_pp"),
    ),
    "xgradcam": LayerMethod(
        "XGrad-CAM",
        "slopes weighted by the activations' shares",
        "Fu et al. 2020, equation 8",
        deferred(f"{_LAYERS}:xgrad_cam"),
    ),
    "hirescam": LayerMethod(
        "HiResCAM",
        "slope times activation, cell by cell",
        "Draelos and Carin 2020",
        deferred(f"{_LAYERS}:hires_cam"),
    ),
    "layercam": LayerMethod(
        "LayerCAM",
        "positive slope times activation, cell by cell",
        "Jiang et al. 2021, equations 6 and 7",
        deferred(f"{_LAYERS}:layer_cam"),
    ),
    "eigencam": LayerMethod(
        "Eigen-CAM",
        "first principal component; the same for all classes",
        "Muhammad and Yeasin 2020",
        deferred(f"{_LAYERS}:eigen_cam"),
    ),
    "scorecam": LayerMethod(
        "Score-CAM",
        "rise of the logit with each channel as a mask",
        "Wang et al. 2020, algorithm 1",
        deferred(f"{_LAYERS}:score_cam"),
        interactive=False,  # a forward pass for every channel
    ),
    "gradcam-skip": LayerMethod(
        "Grad-CAM, skipping",
        "mean slope as if the layer were the last",
        "the code of Nwadike et al. 2020",
        deferred(f"{_LAYERS}:skipping"),
        interactive=False,  # most layers do not fit the head
    ),
    "occlusion": ScoreMethod(
        "Occlusion",
        "fall of the score when a window is covered",
        "Zeiler and Fergus 2014, section 4.2",
        deferred(f"{_SCORES}:occlusion_by_eighths"),
    ),
    "rise": ScoreMethod(
        "RISE",
        "mean score of random masks that show a pixel",
        "Petsiuk et al. 2018",
        deferred(f"{_SCORES}:rise"),
    ),
}
for _name, _method in _OURS.items():
    METHODS.add(_name, _method)


def layer_method(name: str) -> LayerMethod:
    """One that needs a network with layers.

    Raises:
        PetechiaError: there is none of that name.
    """
    method = METHODS.get(name)
    if not isinstance(method, LayerMethod):
        raise PetechiaError(f"{name!r} is not a method; the methods are {', '.join(layer_methods())}.")
    return method


def layer_methods() -> dict[str, LayerMethod]:
    """Those that need a network with layers, by name."""
    return {name: method for name, method in METHODS.items() if isinstance(method, LayerMethod)}


def score_methods() -> dict[str, ScoreMethod]:
    """Those that need a model's answers alone, by name."""
    return {name: method for name, method in METHODS.items() if isinstance(method, ScoreMethod)}


def interactive_methods() -> dict[str, LayerMethod]:
    """Those that the viewer offers, by name."""
    return {name: method for name, method in layer_methods().items() if method.interactive}
