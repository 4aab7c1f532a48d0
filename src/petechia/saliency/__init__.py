"""Where a model looks: class activation maps, maps for black boxes, and how well they find a trigger."""

from typing import TYPE_CHECKING

from petechia.core.registry import exports
from petechia.saliency.registry import METHODS, LayerMethod, ScoreMethod, interactive_methods, layer_methods, score_methods

if TYPE_CHECKING:
    from petechia.saliency.activation_maps import Explainer, Explanation, cam, explain
    from petechia.saliency.black_box import occlusion, rise
    from petechia.saliency.localisation import Localisation, localise
    from petechia.saliency.methods import Recorded, of_gradients

__all__ = [
    "METHODS",
    "Explainer",
    "Explanation",
    "LayerMethod",
    "Localisation",
    "Recorded",
    "ScoreMethod",
    "cam",
    "explain",
    "interactive_methods",
    "layer_methods",
    "localise",
    "occlusion",
    "of_gradients",
    "rise",
    "score_methods",
]

# Imported when they are used: the command line's help lists the methods, and must not wait for torch.
__getattr__ = exports(
    __name__,
    {
        **dict.fromkeys(("Explainer", "Explanation", "cam", "explain"), "activation_maps"),
        **dict.fromkeys(("occlusion", "rise"), "black_box"),
        **dict.fromkeys(("Localisation", "localise"), "localisation"),
        **dict.fromkeys(("Recorded", "of_gradients"), "methods"),
    },
)
