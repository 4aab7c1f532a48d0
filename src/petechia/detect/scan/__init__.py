"""Was a collection of images tampered with?"""

from petechia.detect.scan.detector import DatasetScan, scan_catalog
from petechia.detect.scan.result import ScanResult

__all__ = ["DatasetScan", "ScanResult", "scan_catalog"]
