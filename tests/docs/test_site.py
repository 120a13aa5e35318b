"""The site has every page, and Chinese words on the Chinese ones. ``make site`` builds it; this needs no tools."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType, SimpleNamespace

from tests.docs.pages import ROOT

NAVIGATION = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]


def _hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / ".ci" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation() -> None:
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md", NAVIGATION)) == pages | {"index.md", "zh-CN/index.md"}


def test_a_chinese_page_has_chinese_words_and_its_own_part_of_the_navigation_first() -> None:
    hook = _hook()
    titles = re.findall(r"^  - ([^:]+):", NAVIGATION, re.MULTILINE)
    nav = SimpleNamespace(items=[SimpleNamespace(title=title) for title in titles])

    def shown(path: str) -> tuple[str, list[str]]:
        config = SimpleNamespace(theme={})
        page = SimpleNamespace(file=SimpleNamespace(src_uri=path), markdown="")
        hook.on_page_context({}, page=page, config=config, nav=nav)
        return config.theme["language"], [section.title for section in nav.items]

    language, chinese = shown("zh-CN/faq.md")
    assert language == "zh"
    assert chinese[0] == "简体中文"
    assert [title for title in chinese if title.isascii()] == []
    assert shown("faq.md") == ("en", titles)


def test_only_a_page_with_a_diagram_loads_the_script_that_draws_it() -> None:
    hook = _hook()
    for markdown, scripts in (("```mermaid\n", [hook.MERMAID]), ("```sh\n", [])):
        config = SimpleNamespace(theme={})
        page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"), markdown=markdown)
        hook.on_page_context({}, page=page, config=config, nav=SimpleNamespace(items=[]))
        assert config.extra_javascript == scripts
