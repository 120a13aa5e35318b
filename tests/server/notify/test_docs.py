"""docs/notifications.md shows what is sent."""

from __future__ import annotations

import json
import re

from replicator.networks import parse_receivers
from replicator.server.notify.formats import document, lines_of
from replicator.server.notify.message import Example, Message, MessageState, NotifyTiming, Occasion
from replicator.server.notify.sending import MAX_PENDING, SECONDS
from replicator.settings import Settings
from tests.docs.pages import ROOT, blocks
from tests.server.notify.conftest import NOW, ORIGIN

PAGE = ROOT / "docs" / "notifications.md"
TEXT = PAGE.read_text()
SHOWN = Message(
    id="5f0c6a1e9d3b4c7f8a2e1d0c9b8a7f6e",
    occasion=Occasion.DEAD_LETTERS,
    state=MessageState.TROUBLE,
    title="replicator: 3 copies failed and are not retried automatically",
    at=NOW + 360_000,
    since=NOW + 300_000,
    count=3,
    examples=(
        Example(
            "harbor.example.com/team/app:v1 -> registry.cn-beijing.aliyuncs.com/team-mirror/app:v1",
            "permanent: denied",
        ),
    ),
    advice=(
        "Run replicator failures to see all of them, with their reasons.",
        "Once the cause is fixed, run replicator failures retry --all",
    ),
)


def block(language: str) -> str:
    (found,) = [each.text for each in blocks(language) if each.page == PAGE]
    return found


def test_the_text_that_is_shown_is_what_is_sent() -> None:
    assert "\n".join(lines_of(SHOWN, ORIGIN, 6000)) + "\n" == block("text")


def test_the_document_that_is_shown_is_what_is_sent() -> None:
    shown = json.loads(block("json"))
    sent = document(SHOWN, ORIGIN, shown["text"])
    assert list(shown) == list(sent)
    assert {**sent, "advice": shown["advice"]} == shown
    assert set(shown["advice"]) <= set(sent["advice"])


def test_every_occasion_and_state_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) - {"occasion"} == set(Occasion)
    assert all(f"`{state}`" in TEXT for state in MessageState)


def test_the_addresses_that_are_shown_have_the_formats_of_the_table() -> None:
    shown = re.findall(r"`((?:\w+\+)?https://[^`]+)`", TEXT)
    formats = [parse_receivers(address.replace("…", "x"))[0].format for address in shown]
    assert formats == ["dingtalk", "feishu", "wecom", "slack", "slack", "json", "dingtalk"]


def test_the_numbers_are_those_of_the_program() -> None:
    timing = NotifyTiming(late=Settings.model_fields["notify_lag"].default)
    assert (timing.late, timing.gather, timing.pause) == (15 * 60, 60, 10 * 60)
    assert (MAX_PENDING, SECONDS) == (50, 10)
