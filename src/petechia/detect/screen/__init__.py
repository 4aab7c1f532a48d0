"""Is this single image carrying a trigger?"""

from petechia.detect.screen.screen import Evidence, Screen, Suspicions

__all__ = ["Evidence", "Screen", "Suspicions"]
