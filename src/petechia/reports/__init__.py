"""Tables, figures and the HTML report of a run."""

from petechia.reports.html import build_report
from petechia.reports.tables import Cell, Row, result_rows, verdict

__all__ = ["Cell", "Row", "build_report", "result_rows", "verdict"]
