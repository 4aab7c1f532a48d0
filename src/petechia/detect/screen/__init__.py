"""Is this single image carrying a trigger?"""

from petechia.detect.screen.screen import ImageEvidence, Screen, Suspicions

__all__ = ["ImageEvidence", "Screen", "Suspicions"]
