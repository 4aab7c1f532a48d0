"""Where a model looks: class activation maps, maps for black boxes, and how well they find a trigger."""

from petechia.saliency.activation_maps import Explanation, cam, explain
from petechia.saliency.black_box import occlusion, rise
from petechia.saliency.localisation import Localisation, localise
from petechia.saliency.methods import METHODS

__all__ = ["METHODS", "Explanation", "Localisation", "cam", "explain", "localise", "occlusion", "rise"]
