"""Where a model looks: class activation maps, maps for black boxes, and how well they find a trigger."""

from petechia.explain.black_box import occlusion, rise
from petechia.explain.cam import Explanation, cam, explain
from petechia.explain.localise import Localisation, localise
from petechia.explain.methods import METHODS

__all__ = ["METHODS", "Explanation", "Localisation", "cam", "explain", "localise", "occlusion", "rise"]
