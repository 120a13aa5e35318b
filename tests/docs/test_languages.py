"""Pages in Chinese show the same commands, files, outputs and links as those in English."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import ROOT, Block, blocks, links, name

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = [(ROOT / "README.md", ROOT / "README.zh-CN.md")]
_COMMENT = re.compile(r"(?:^|\s+)#\s.*$", re.MULTILINE)


def _without_comments(block: Block) -> tuple[str, str]:
    return block.language, _COMMENT.sub("", block.text)


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_commands_files_and_outputs_are_the_same(english: Path, chinese: Path) -> None:
    shown = [
        [_without_comments(block) for block in blocks() if block.page == page and block.language != "mermaid"]
        for page in (english, chinese)
    ]
    assert shown[0]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_links_lead_to_the_same_pages(english: Path, chinese: Path) -> None:
    found = [[link for link in links(page) if not link.startswith(("#", "README"))] for page in (english, chinese)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_each_leads_to_the_other_in_its_first_line(english: Path, chinese: Path) -> None:
    assert f"({chinese.name})" in english.read_text().splitlines()[0]
    assert f"({english.name})" in chinese.read_text().splitlines()[0]
