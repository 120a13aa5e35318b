"""Pages in Chinese show the same commands, files, outputs and links as those in English."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, code_spans, links, name

if TYPE_CHECKING:
    from pathlib import Path

PAIRS = [(ROOT / "README.md", ROOT / "README.zh-CN.md")]
CHINESE = [page for page in PAGES if page.parent.name == "zh-CN"]
ENGLISH = [page for page in PAGES if page not in CHINESE and page.name != "README.zh-CN.md"]
WORDS = "\n".join(page.read_text() for page in ENGLISH)
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "replicator").rglob("*.py")))
_COMMENT = re.compile(r"(?:^|\s+)#\s.*$", re.MULTILINE)


def _in_english(link: str) -> str:
    """Return the link to the English page of a Chinese one."""
    link = link.replace("docs/zh-CN/image-syncer.md", "docs/compatibility.md").replace("docs/zh-CN/", "docs/")
    return link.replace(".zh-CN.png", ".png")


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
    only_chinese = "docs/zh-CN/quick-start.md"
    translated = [_in_english(link) for link in found[1] if link != only_chinese]
    assert found[0] == translated


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_each_leads_to_the_other_in_its_first_line(english: Path, chinese: Path) -> None:
    assert f"({chinese.name})" in english.read_text().splitlines()[0]
    assert f"({english.name})" in chinese.read_text().splitlines()[0]


@pytest.mark.parametrize("page", CHINESE, ids=name)
def test_a_chinese_page_and_the_english_one_lead_to_each_other(page: Path) -> None:
    *_, line = page.read_text().splitlines()[:3]
    (target,) = re.findall(r"^\[English\]\(([^)#]+)(?:#[\w-]+)?\) \| \*\*简体中文\*\*$", line)
    english = (page.parent / target).resolve()
    assert english in ENGLISH
    if english.name != "README.md":  # the quick start is a part of it
        assert f"**English** | [简体中文](zh-CN/{page.name})" in english.read_text().splitlines()[:3]


@pytest.mark.parametrize("page", CHINESE, ids=name)
def test_a_chinese_page_shows_only_what_an_english_one_shows(page: Path) -> None:
    """A file is the same as a whole; of commands and outputs each line is there."""
    english = {_without_comments(block) for block in blocks() if block.page in ENGLISH}
    lines = {(language, line.strip()) for language, text in english for line in text.splitlines()}
    for block in blocks():
        if block.page == page:
            language, text = _without_comments(block)
            if language in {"yaml", "json"}:
                assert (language, text) in english, block
            else:
                assert {(language, line.strip()) for line in text.splitlines()} <= lines, block


@pytest.mark.parametrize("page", CHINESE, ids=name)
def test_names_in_a_chinese_page_are_those_of_the_english_ones(page: Path) -> None:
    text = page.read_text()
    named = {*code_spans(page, range(1, len(text.splitlines()) + 1)), *re.findall(r"REPLICATOR_[A-Z_]+", text)}
    assert named
    assert [each for each in sorted(named) if each not in WORDS] == []


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Check the installation", "启动前检查"),
        ("The webhook's answers", "Webhook 的应答"),
        ("What happens when a copy fails", "失败、重试和死信"),
        ("Exit codes", "日常命令"),
        ("An incomplete reconcile", "对账的各项数字"),
    ],
)
def test_a_chinese_table_has_the_rows_of_the_english_one(english: str, chinese: str) -> None:
    """A row may be of two names, and the Chinese part may have other tables too."""
    shown = [_first_words(f"docs/{page}operations.md", part) for page, part in (("", english), ("zh-CN/", chinese))]
    assert shown[0]
    assert shown[0] <= shown[1]


def _first_words(page: str, heading: str) -> set[str]:
    """Return the words in the first cells of a part's tables."""
    (part,) = re.findall(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\| ([^|]*[^|-]) \|.*$(?!\n\|---)", part, re.MULTILINE)
    found = (re.search(r"[a-z0-9][a-z0-9_ ]*", name) for cell in cells for name in cell.split("、"))
    return {match[0] for match in found if match}


def test_titles_that_are_errors_are_printed() -> None:
    """By the program, or by a registry as an English page quotes it."""
    text = (ROOT / "docs" / "zh-CN" / "operations.md").read_text().split("\n## 按现象排查\n")[1]
    titles = [title for title in re.findall(r"^### (.+)$", text, re.MULTILINE) if title.isascii() or "…" in title]
    assert len(titles) > 15
    for title in titles:
        for part in title.split("…"):
            assert part.strip(" ,") in SOURCE or part.strip(" ,") in WORDS, title
