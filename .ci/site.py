#!/usr/bin/env python3
"""The pages of the site, which `make site` builds, and the language of each.

Run as a program, it gathers them in build/pages: the README of each language is its first page, beside those of docs/.
mkdocs loads it as a hook, too: Chinese pages get the theme's Chinese words, and their own part of the navigation first.
"""

import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
FILES = r"deploy/[^)]*|(?:CONTRIBUTING|SECURITY|CODE_OF_CONDUCT|CHANGELOG)\.md[^)]*|LICENSE"
OUTSIDE = re.compile(rf"\[([^\]]+)\]\((?:\.\./)*(?:{FILES})\)")

MERMAID = "mermaid.min.js"
"""The script that draws diagrams; `make site` puts it beside the pages."""
CHINESE = {
    "Start": "开始 · 英文",
    "How it works": "工作原理 · 英文",
    "Rules": "规则 · 英文",
    "Install": "安装 · 英文",
    "Operate": "运维 · 英文",
    "Automate": "自动化 · 英文",
    "Judge": "选型与安全 · 英文",
}
"""Titles of `mkdocs.yml` on Chinese pages; the pages behind them are in English."""


def main() -> None:
    """Gather the pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    (PAGES / "zh-CN").mkdir(exist_ok=True)
    for name, target, up in (("README.md", "index.md", ""), ("README.zh-CN.md", "zh-CN/index.md", "../")):
        text = (ROOT / name).read_text()
        text = text.replace("](docs/zh-CN/", "](" if up else "](zh-CN/").replace("](docs/", f"]({up}")
        text = text.replace("](README.zh-CN.md)", "](zh-CN/index.md)").replace("](README.md)", f"]({up}index.md)")
        (PAGES / target).write_text(text)
    for page in PAGES.rglob("*.md"):
        # What is no page of the site is named, not linked: the site may be read without the repository.
        text = OUTSIDE.sub(r"\1", page.read_text())
        up = "../" * (len(page.relative_to(PAGES).parts) - 1)
        text = re.sub(r"\]\((?:\.\./)+README\.md", f"]({up}index.md", text)
        page.write_text(re.sub(r"\]\((?:\.\./)+README\.zh-CN\.md", f"]({up}zh-CN/index.md", text))


def on_page_context(context: dict[str, Any], *, page: Any, config: Any, nav: Any) -> dict[str, Any]:
    """Set the language and the scripts of a page; mkdocs calls it before it writes each of them, one by one."""
    chinese = page.file.src_uri.startswith("zh-CN/")
    config.theme["language"] = "zh" if chinese else "en"
    # The script has 3 MB. Without it, the theme takes it from another host, and the search fails where that is silent.
    config.extra_javascript = [MERMAID] if "```mermaid" in page.markdown else []
    for section in nav.items:
        english = section.english = getattr(section, "english", section.title)
        section.title = CHINESE.get(english, english) if chinese else english
    nav.items.sort(key=lambda section: (section.title == "简体中文") != chinese)
    return context


if __name__ == "__main__":
    main()
