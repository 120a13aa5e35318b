"""Links and file names in the documentation resolve."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest

from tests.docs.pages import EVERYTHING, PAGES, ROOT, anchors, links, name

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_resolve(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", EVERYTHING, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    for file in re.findall(r"(?<![\w/.])(?:deploy|docs|replicator|tests)/[\w./-]*\w", page.read_text()):
        assert (ROOT / file).exists(), file


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ways = [ROOT / "README.md"]
    while ways:
        page = ways.pop()
        if page not in reached:
            reached.add(page)
            targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
            ways += [target for target in targets if target in PAGES]
    assert reached == set(PAGES)
