"""Was a collection of images tampered with?"""

from typing import TYPE_CHECKING

from petechia.core.registry import exports

if TYPE_CHECKING:
    from petechia.detect.scan.detector import DatasetScan, scan_catalog
    from petechia.detect.scan.result import ScanResult

__all__ = ["DatasetScan", "ScanResult", "scan_catalog"]

# Imported when they are used: a worker that reads images must not wait for torch.
__getattr__ = exports(__name__, {"DatasetScan": "detector", "scan_catalog": "detector", "ScanResult": "result"})
