"""Messages in each format: complete, bounded, and harmless whatever text from outside they contain."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.receivers import Format, Receiver, parse_receivers
from replicator.server.notify.formats import dingtalk_sign, feishu_sign, post_of
from tests.server.notify.conftest import NOW, ORIGIN, message

if TYPE_CHECKING:
    from replicator.server.notify.message import Message

ALL = {
    Format.DINGTALK: parse_receivers("dingtalk+https://x.example.com/?access_token=t#SEC1")[0],
    Format.FEISHU: parse_receivers("feishu+https://x.example.com/t#s")[0],
    Format.WECOM: parse_receivers("wecom+https://x.example.com/?key=t")[0],
    Format.SLACK: parse_receivers("slack+https://x.example.com/t")[0],
    Format.JSON: parse_receivers("https://x.example.com/t#s")[0],
}
EVIL = (
    'h/<!channel>/<@U1>/@all:v1 <at user_id="all">all</at>',
    "denied: ```*bold* [link](https://evil.example.com) <https://evil.example.com|x> &amp; \u202eabc\x1b[31m\n@here",
)


def sent(receiver: Receiver, what: Message) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(post_of(receiver, what, ORIGIN, NOW / 1000).body)
    return fields


def text_of(form: Format, fields: dict[str, Any]) -> str:
    if form is Format.FEISHU:
        post = fields["content"]["post"]["zh_cn"]
        return "\n".join([post["title"], *(part["text"] for line in post["content"] for part in line)])
    text = fields["text"] if form in (Format.SLACK, Format.JSON) else fields["text"]["content"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("form", Format)
def test_every_format_has_title_start_count_reasons_advice_and_link(form: Format) -> None:
    text = text_of(form, sent(ALL[form], message(("h/a:v1", "denied"), ("h/b:v1", "no space"), count=12)))
    for part in (
        "replicator: 12 copies failed",
        "since 2025-12-31 23:55:00 UTC (5 min)",
        "- h/a:v1: denied\n- h/b:v1: no space\nand 10 more",
        "replicator failures retry --all",
        "Status: https://replicator.example.com/",
        "at replicator.example.com",
    ):
        assert part in text


def test_the_title_begins_with_the_keyword_that_robots_can_require() -> None:
    for form, receiver in ALL.items():
        assert text_of(form, sent(receiver, message(("a", "b")))).startswith("replicator")


def test_slack_interprets_no_mention_link_or_markup_from_outside() -> None:
    text = text_of(Format.SLACK, sent(ALL[Format.SLACK], message(EVIL)))
    assert "<" not in text
    assert ">" not in text
    assert "&lt;!channel&gt;" in text
    assert "&amp;amp;" in text
    # All that is foreign stands in the one block of code, which it can't end.
    title, block, end = text.split("```")
    assert title == "replicator: 1 copies failed\n"
    assert end == "\nStatus: https://replicator.example.com/"
    assert "bold" in block


@pytest.mark.parametrize("form", [Format.FEISHU, Format.WECOM])
def test_tags_of_mentions_are_broken(form: Format) -> None:
    text = text_of(form, sent(ALL[form], message(EVIL)))
    assert "<at" not in text
    assert "<@" not in text


def test_dingtalk_mentions_nobody() -> None:
    fields = sent(ALL[Format.DINGTALK], message(EVIL))
    assert fields["msgtype"] == "text"
    assert fields["at"] == {"isAtAll": False}


@pytest.mark.parametrize("form", Format)
def test_text_from_outside_stays_on_its_line_and_has_no_control_characters(form: Format) -> None:
    text = text_of(form, sent(ALL[form], message(EVIL)))
    assert "\n@here" not in text
    assert not {"\u202e", "\x1b", "\r"} & set(text)


LIMITS = {Format.DINGTALK: 6000, Format.FEISHU: 6000, Format.WECOM: 2048, Format.SLACK: 3600, Format.JSON: 6000}


@given(
    st.lists(st.tuples(st.text(max_size=400), st.text(max_size=400)), max_size=30),
    st.integers(0, 10**6),
    st.sampled_from(Format),
)
def test_every_message_is_within_the_limit_of_its_format(
    examples: list[tuple[str, str]], more: int, form: Format
) -> None:
    what = message(*examples, count=len(examples) + more)
    post = post_of(ALL[form], what, ORIGIN, NOW / 1000)
    text = text_of(form, json.loads(post.body))
    assert len(text.encode()) <= LIMITS[form]
    assert len(post.body) <= 20_000 or form is Format.JSON
    assert "replicator failures retry --all" in text
    assert "Status: https://replicator.example.com/" in text


def test_examples_that_do_not_fit_are_counted() -> None:
    text = text_of(Format.WECOM, sent(ALL[Format.WECOM], message(*((f"h/{n}", "镜" * 300) for n in range(5)), count=9)))
    written = text.count("\n- ")
    assert 0 < written < 5
    assert f"and {9 - written} more" in text


def test_the_document_for_programs_has_everything() -> None:
    fields = sent(ALL[Format.JSON], message(("h/a:v1", "denied"), count=1))
    text = fields.pop("text")
    assert "replicator failures" in text
    assert fields == {
        "id": "0123",
        "occasion": "dead_letters",
        "state": "trouble",
        "title": "replicator: 1 copies failed",
        "at": "2026-01-01T00:00:00.000Z",
        "since": "2025-12-31T23:55:00.000Z",
        "count": 1,
        "examples": [{"subject": "h/a:v1", "reason": "denied", "what": "denied", "why": "", "do": "", "count": 1}],
        "advice": ["Once the cause is fixed, run replicator failures retry --all"],
        "installation": "replicator.example.com",
        "status_page": "https://replicator.example.com/",
    }


def test_signatures_are_those_of_the_documents() -> None:
    # Made by the services' own sample programs, with openssl: HMAC-SHA256 in Base64.
    # DingTalk: of "1577262236757\nthis is secret" under "this is secret".
    assert dingtalk_sign("1577262236757", "this is secret") == "hmPWwU+7lVdm3ZZz0r9tSfx0L4Q26jWOZr9+Gs6EZQM="
    # Feishu: of nothing under "1599360473\ndemo".
    assert feishu_sign("1599360473", "demo") == "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8="


def test_a_secret_signs_and_is_not_sent() -> None:
    dingtalk = post_of(ALL[Format.DINGTALK], message(("a", "b")), ORIGIN, NOW / 1000)
    assert dingtalk.url.query["sign"] == dingtalk_sign(str(NOW), "SEC1")
    assert dingtalk.url.query["timestamp"] == str(NOW)
    assert "SEC1" not in str(dingtalk.url) + dingtalk.body.decode()
    feishu = json.loads(post_of(ALL[Format.FEISHU], message(("a", "b")), ORIGIN, NOW / 1000).body)
    assert (feishu["timestamp"], feishu["sign"]) == (str(NOW // 1000), feishu_sign(str(NOW // 1000), "s"))


def test_for_programs_the_secret_is_a_bearer_token() -> None:
    assert post_of(ALL[Format.JSON], message(("a", "b")), ORIGIN, 0).headers["Authorization"] == "Bearer s"
