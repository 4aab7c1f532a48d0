"""The Python interface: the commands as functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petechia.files import write_text
from petechia.report import build_report
from petechia.study import Config, Progress, Run
from petechia.study import run as run_study


def run(
    config: Config | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Mount an attack, train every arm, measure it and write the run directory with its report.

    Args:
        config: a configuration, or a nested mapping of the keys that differ from the defaults, as in
            `{"data": "nih:/data/ChestX-ray14", "attack": {"rate": 0.1}}`.
        out: the run directory; a new one below runs/ where it is not given.
        resume: go on with the run in `out`, if there is one.
        progress: told what happens.

    Raises:
        PetechiaError: something in the configuration, the data or the run directory does not allow it.
    """
    finished = run_study(config, out, resume, progress)
    if not finished.directory.report.is_file():
        write_text(finished.directory.report, build_report(finished.directory))
    return finished
