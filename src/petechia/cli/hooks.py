"""The hooks of pre-commit: `python -m petechia.cli.hooks audit|scan …`, see .pre-commit-hooks.yaml.

They run `petechia audit` on each model that is about to be committed, or `petechia scan` on a dataset, and pass its exit status
on. The results lie in a temporary folder, which is kept if something is found.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SIMPLE_CHANGE = 4  # exit status of an audit
PASSED_ON = ("clean", "images", "calibration", "reference", "baseline", "model", "missing", "on-error", "threads")


def main(arguments: Sequence[str]) -> int:
    """Run a hook and return its exit status: 0, or that of the first command that found something or failed."""
    given = _parser().parse_args(arguments)
    options = [word for name in PASSED_ON for value in _values(given, name) for word in (f"--{name}", value)]
    if given.hook == "scan":
        return _run(["scan", given.dataset, "--strict", *options])
    quick = ["--quick"] if given.quick else []
    statuses = [_run(["audit", model, *options, *quick]) for model in given.models]
    allowed = {0, SIMPLE_CHANGE} if given.allow_simple_change else {0}
    return next((status for status in statuses if status not in allowed), 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="petechia.cli.hooks")
    hooks = parser.add_subparsers(dest="hook", required=True)
    audit = hooks.add_parser("audit", help="audit models")
    audit.add_argument("models", nargs="*", help="what pre-commit gives: the files that are committed")
    audit.add_argument("--clean", action="append", required=True, help="clean images, as for petechia audit")
    for name in ("images", "calibration", "reference", "baseline", "threads"):
        audit.add_argument(f"--{name}", help="as for petechia audit")
    audit.add_argument("--quick", action="store_true", help="as for petechia audit")
    audit.add_argument("--allow-simple-change", action="store_true", help="let exit status 4 pass")
    scan = hooks.add_parser("scan", help="scan a dataset")
    scan.add_argument("dataset", help="data source, as for petechia scan")
    for name in ("model", "missing", "on-error", "threads"):
        scan.add_argument(f"--{name}", help="as for petechia scan")
    return parser


def _values(given: argparse.Namespace, name: str) -> list[str]:
    value = getattr(given, name.replace("-", "_"), None)
    return [] if value is None else value if isinstance(value, list) else [value]


def _run(command: list[str]) -> int:
    """Run a command of petechia, and remove its results unless it finds something."""
    folder = Path(tempfile.mkdtemp(prefix="petechia-"))
    out, status = folder / "found", 1
    try:
        words = [sys.executable, "-m", "petechia", *command, "--out", str(out)]
        status = subprocess.run(words, check=False).returncode  # noqa: S603 (the words of the user's own configuration)
    finally:
        if status == 0 or not out.exists():
            shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
