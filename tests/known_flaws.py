"""Asks pip-audit for known vulnerabilities of the versions in constraints.txt: `python -m tests.known_flaws`.

Where its data cannot be reached, the check is skipped, in so many words, and passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LONGEST = 120  # seconds for everything
TIMEOUT = 10  # seconds for one answer
PINNED = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    """Return the exit status: 1 if a version has a known vulnerability."""
    try:
        status, said = judge(_audited())
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        status, said = 0, f"pip-audit skipped: {type(error).__name__}, so it gave no answer"
    print(said)
    return status


def judge(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """Return the exit status and what to say, from the dependencies of pip-audit's JSON."""
    flaws = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    asked = [package for package in packages if "skip_reason" not in package]
    if flaws:
        return 1, "\n".join([f"{len(flaws)} known vulnerabilities:", *flaws])
    if not asked:
        return 0, "pip-audit skipped: it cannot reach its data"
    unknown = f"; of {len(packages) - len(asked)} nothing is known" if len(asked) < len(packages) else ""
    return 0, f"No known vulnerability in {len(asked)} packages{unknown}"


def _audited() -> list[dict[str, Any]]:
    if find_spec("pip_audit") is None:
        raise OSError("pip-audit is not installed")
    words = ["--requirement", str(PINNED), "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *words, "--timeout", str(TIMEOUT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    return packages


if __name__ == "__main__":
    sys.exit(main())
