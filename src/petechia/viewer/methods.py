"""The explanation methods that the viewer offers: those that answer at once."""

from __future__ import annotations

from typing import TypedDict

LABELS = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "xgradcam": "XGrad-CAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "Eigen-CAM",
}


class OfferedMethod(TypedDict):
    """A method: its name in `petechia.saliency.METHODS`, and its label on the page."""

    name: str
    label: str


def offered_methods() -> list[OfferedMethod]:
    """The methods to choose from, in the order of the list on the page."""
    return [{"name": name, "label": label} for name, label in LABELS.items()]
