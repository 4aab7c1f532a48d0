"""Does a single image carry a trigger?"""

from petechia.detect.screen.detector import ImageScreen
from petechia.detect.screen.result import ScreenResult
from petechia.detect.screen.screen import ImageEvidence, Screen, Suspicions

__all__ = ["ImageEvidence", "ImageScreen", "Screen", "ScreenResult", "Suspicions"]
