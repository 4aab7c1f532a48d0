"""The content of the documentation: its pages, their blocks of code, and how each block is to be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = {"sh": "sh", "console": "sh", "python": "python", "yaml": "yaml", "json": "card", "": "output", "text": "output"}
HOW = ("run with", "run after", "only parsed", "not run", "output is compared")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: relative to the repository.
        line: of the fence, from 1.
        language: as written after the fence.
        text: without the fences.
        how: what the comment before it says: "run with: WHAT" adds WHAT to every command of a shell block, or replaces in a
            Python block, as in "1200 => 160; 3 => 1"; "run after: CODE" runs Python before it; "only parsed: REASON" checks the
            options alone; "not run: REASON"; "output is compared". Without a comment: "run".
        what: what follows in the comment.
    """

    page: str
    line: int
    language: str
    text: str
    how: str
    what: str

    @property
    def kind(self) -> str:
        """sh, python, yaml or output."""
        return LANGUAGES[self.language]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return README.md and all of docs/, relative to the repository."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order.

    Raises:
        ValueError: a language is not known, a fence is not closed, or a comment does not say why.
    """
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found = []
    start = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = number
            continue
        language = lines[start].strip().removeprefix("```").strip()
        if language not in LANGUAGES:
            raise ValueError(f"{page}:{start + 1}: {language!r} is not one of {', '.join(filter(None, LANGUAGES))}.")
        how, what = _comment(lines[start - 1] if start else "", f"{page}:{start}")
        found.append(Block(page, start + 1, language, "\n".join(lines[start + 1 : number]), how, what))
        start = None
    if start is not None:
        raise ValueError(f"{page}:{start + 1}: the block is not closed.")
    return found


def _comment(line: str, where: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*<!-- (.*) -->\s*", line)
    if match is None:
        return "run", ""
    how, _, what = match[1].partition(": ")
    if how not in HOW or (not what.strip() and how != "output is compared"):
        raise ValueError(f"{where}: the comment before a block is one of {', '.join(HOW)}, and says why or with what.")
    return how, what


def inline_commands(page: str) -> list[str]:
    """Return the commands in the running text, such as `petechia run --resume`."""
    text = re.sub(r"^\s*```.*?^\s*```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`((?:petechia|python -m|make)\s[^`]+)`", text)]
