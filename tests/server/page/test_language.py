"""The status page in two languages, and the catalogue of what it says."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from string import Formatter
from typing import TYPE_CHECKING

import pytest

from replicator.server.page.language import COOKIE, LANGUAGES, choose_language, messages
from tests.server.page.reading import Document

if TYPE_CHECKING:
    from tests.server.page.conftest import Site

TEMPLATES = files("replicator.server.page") / "templates"
CATALOGUE: dict[str, dict[str, str]] = json.loads((TEMPLATES / "messages.json").read_text(encoding="utf-8"))
CHINESE = re.compile("[\u4e00-\u9fff]")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def test_every_message_is_in_every_language_with_the_same_placeholders() -> None:
    for key, message in CATALOGUE.items():
        assert message.keys() == LANGUAGES.keys(), key
        english, chinese = message["en"].split("|"), message["zh"]
        assert "|" not in chinese, f"{key}: Chinese has no plural"
        wanted = placeholders(chinese)
        for form in english:
            # "1 copy waits" has the number in words.
            assert placeholders(form) | {"number"} == wanted | {"number"}, key
        assert len(english) == 1 or (len(english) == 2 and "number" in wanted), key
        assert all(each.strip() for each in (*english, chinese)), key


def test_every_message_is_used_and_every_used_one_exists() -> None:
    folder = files("replicator.server.page")
    every = [*folder.iterdir(), *TEMPLATES.iterdir()]
    text = "\n".join(each.read_text(encoding="utf-8") for each in every if each.name.endswith((".py", ".html")))
    text = text.replace("'", '"')
    named = set(re.findall(r'\bt\("([\w. ]+)"[,)]', text))
    assert named - CATALOGUE.keys() == set()
    # A key may be put together of its kind and a word of the program.
    kinds = set(re.findall(r'\b(?:t|self)\(f?"(\w+\.)["{]', text))
    kinds |= {f"{kind}." for kind in re.findall(r't\.word\("(\w+)"', text)}
    unused = {key for key in CATALOGUE if f'"{key}"' not in text and not key.startswith(tuple(kinds))}
    assert unused == set()


@pytest.mark.parametrize(
    ("query", "cookie", "accepted", "language"),
    [
        ("", "", "", "en"),
        ("", "", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "", "fr, zh-TW;q=0.5, en;q=0.4", "zh"),
        ("", "", "en-GB,zh;q=0.9", "en"),
        ("", "", "de;q=1, zh;q=0", "en"),
        ("", "", "zh;q=x, ;;q=, ,en", "en"),
        ("", "zh", "en", "zh"),
        ("en", "zh", "zh", "en"),
        ("xx", "<b>", "*", "en"),
    ],
)
def test_the_choice_on_the_page_comes_before_the_browsers_wish(
    query: str, cookie: str, accepted: str, language: str
) -> None:
    assert choose_language(query, cookie, accepted) == language


def test_numbers_have_separators_and_forms_and_what_is_foreign_is_printable() -> None:
    english, chinese = messages("en"), messages("zh")
    assert english("queue.dead", number=1) == "1 dead letter"
    assert english("queue.dead", number=1200) == "1,200 dead letters"
    assert "1,200" in chinese("queue.dead", number=1200)
    assert english("pages.label", what="a\u202eb{c}") == "Pages: a b{c}"
    assert (english.age(300), chinese.age(300), chinese.duration(0.25)) == ("5 min", "5 分钟", "0.2 秒")
    assert (english.word("result", "given up"), english.word("result", "new\x1b")) == ("failed", "new ")


async def test_the_page_is_in_the_browsers_language_and_a_switch_keeps_the_other(site: Site) -> None:
    answer = await site.get(**{"Accept-Language": "zh-CN"})
    seen = Document(answer.text)
    assert ("html", {"lang": "zh-CN"}) in seen.tags
    assert "没有运行中的 worker" in seen.texts["head"]
    assert answer.headers["Content-Language"] == "zh-CN"
    assert "Set-Cookie" not in answer.headers
    assert "?lang=en" in seen.links
    chosen = await site.get("?lang=en&hours=6", **{"Accept-Language": "zh-CN"})
    assert chosen.headers["Set-Cookie"].startswith(f"{COOKIE}=en; HttpOnly; Max-Age=31536000; SameSite=lax")
    links = Document(chosen.text).links
    assert [link for link in links if "lang" in link] == ["?hours=6&lang=zh"], "no other link has it"
    kept = await site.get(**{"Accept-Language": "zh-CN", "Cookie": f"{COOKIE}=en"})
    assert CHINESE.sub("", kept.text) == kept.text.replace("中文", "")
