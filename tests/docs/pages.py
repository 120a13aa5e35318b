"""The documentation as data: pages, their code blocks, links and headings."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DEPLOYED = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())
EVERYTHING = [*PAGES, *DEPLOYED, ROOT / "Dockerfile"]

_HERE_DOCUMENT = re.compile(r" <<(\w+)\n(.*?\n)\1\n", re.DOTALL)


def name(path: Path) -> str:
    """The path from the top of the project: what a failing test is called by."""
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: the file it is from.
        line: its first line, from 1.
        language: the first word behind the fence, e.g. ``sh``.
        text: its content.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(*languages: str) -> list[Block]:
    """All code blocks, or those in these languages."""
    found = []
    for page in PAGES:
        for token in _tokens(page):
            if token.type in {"fence", "code_block"}:
                language = token.info.split(" ")[0] if token.info else ""
                found.append(Block(page, token.map[0] + 1 if token.map else 0, language, token.content))
    return [block for block in found if not languages or block.language in languages]


@cache
def links(page: Path) -> list[str]:
    """Where a page's links go, as written."""
    tokens = _tokens(page)
    parts = (part for token in tokens for part in token.children or ())
    return [str(part.attrs["href"]) for part in parts if part.type == "link_open"]


@cache
def anchors(page: Path) -> set[str]:
    """What a link into a page may have behind its ``#``: its headings as GitHub spells them."""
    tokens = _tokens(page)
    headings = [text.content for opening, text in pairwise(tokens) if opening.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def part_of(page: Path, heading: str) -> range:
    """The lines from a heading to the next of its level or a higher one; both from 1."""
    tokens = _tokens(page)
    found = [
        (token.map[0] + 1, int(token.tag[1]), text.content)
        for token, text in pairwise(tokens)
        if token.type == "heading_open" and token.map
    ]
    ((first, level, _),) = [each for each in found if each[2] == heading]
    following = [line for line, depth, _ in found if line > first and depth <= level]
    return range(first, min(following, default=len(page.read_text().splitlines()) + 1))


def code_spans(page: Path, lines: range) -> list[str]:
    """The words in backticks in some lines of a page."""
    tokens = _tokens(page)
    within = (token for token in tokens if token.type == "inline" and token.map and token.map[0] + 1 in lines)
    return [part.content for token in within for part in token.children or () if part.type == "code_inline"]


def here_documents(text: str) -> list[str]:
    """The bodies of a script's here-documents."""
    return [body for _, body in _HERE_DOCUMENT.findall(text)]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a script, as lists of words."""
    script = _HERE_DOCUMENT.sub("\n", text).replace("\\\n", " ")
    for line in script.splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in lexer:
            if set(word) <= set("();<>|&"):
                yield words
                words = []
            else:
                words.append(word)
        yield words
