"""Every command and every snippet of README.md and docs/ runs, or says in a comment before it why not."""

from pathlib import Path

import pytest

from tests.docs.conftest import Stories
from tests.docs.pages import Block, blocks, inline_commands, pages
from tests.docs.story import check, commands, run_python, tell

WITH_BLOCKS = [page for page in pages() if blocks(page)]


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_page_does_what_it_says(page: str, stories: Stories) -> None:
    story = stories(page)
    assert set(story.done) == set(blocks(page))


@pytest.mark.parametrize("page", [page for page in pages() if inline_commands(page)])
def test_commands_in_the_text_have_the_options_that_they_are_given(page: str) -> None:
    for command in inline_commands(page):
        check(command, page)


def test_a_block_is_neither_forgotten_nor_excused_without_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.pages.ROOT", tmp_path)
    page = tmp_path / "page.md"

    page.write_text("<!-- not run: -->\n```sh\npetechia run\n```\n")
    with pytest.raises(ValueError, match=r"page\.md:1: the comment"):
        blocks("page.md")
    page.write_text("```fish\npetechia run\n```\n")
    with pytest.raises(ValueError, match="'fish' is not one of"):
        blocks("page.md")
    page.write_text("```sh\npetechia run\n")
    with pytest.raises(ValueError, match="not closed"):
        blocks("page.md")

    for text, message in (
        ("```sh\nrm -r runs\n```\n", "cannot be run here"),
        ("```sh\npetechia report nowhere\n```\n", "ended with 1"),
        ("```sh\npetechia --version  # exit status 3: found\n```\n", "ended with 0"),
        ("<!-- only parsed: long -->\n```sh\npetechia run --sed 3\n```\n", "has no --sed"),
        ("<!-- only parsed: long -->\n```sh\npython -m benchmarks.peers ZOO --halve judge\n```\n", "has no --halve"),
        ("<!-- only parsed: long -->\n```sh\npip install 'petechia[webs]'\n```\n", "no extra webs"),
        ("```python\nprint(1)\n```\n\n<!-- output is compared -->\n```\n2\n```\n", "the output is"),
    ):
        page.write_text(text)
        with pytest.raises(AssertionError, match=message):
            tell("page.md", tmp_path)


def test_continued_lines_prompts_and_replacements(tmp_path: Path) -> None:
    console = Block("p", 1, "console", "$ petechia run \\\n    --resume\nprinted\n$ petechia scan X", "run", "")
    assert [line.split() for line in commands(console)] == [["petechia", "run", "--resume"], ["petechia", "scan", "X"]]
    names = {"base": 40}
    assert run_python(Block("p", 1, "python", "print(base + 2)", "run", ""), tmp_path, names) == "42\n"
    assert run_python(Block("p", 1, "python", "print(base + 2)", "run with", "+ 2 => - 1"), tmp_path, names) == "39\n"
    with pytest.raises(AssertionError, match="'7' is not in it"):
        run_python(Block("p", 1, "python", "print(base)", "run with", "7 => 8"), tmp_path, names)
