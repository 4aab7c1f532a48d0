"""Run all benchmarks and write one table: `python -m benchmarks`; of a GPU with `--device cuda`.

The processor is compared with other packages (the extra bench), which takes about ten minutes. The GPU is compared with bare
loops and their graphs; that needs no further package.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown


def main() -> None:
    """Print the table as it grows, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, help="default: benchmarks.md, or benchmarks-gpu.md")
    given = parser.parse_args()
    of_cpu = given.device == "cpu"
    timed = import_module(
        "benchmarks.processor" if of_cpu else "benchmarks.gpu"
    )  # the first needs packages that the other does not
    rows = timed.report() if of_cpu else timed.report(given.device)
    out = given.out or Path("benchmarks.md" if of_cpu else "benchmarks-gpu.md")
    lines = []
    for line in rows:
        print(line, flush=True)
        lines.append(line)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    Console().print(Markdown("\n".join(lines)))


if __name__ == "__main__":
    main()
