"""docs/notifications.md shows what is sent."""

from __future__ import annotations

import json
import re

from replicator.errors import ErrorText
from replicator.queue import Causes
from replicator.receivers import parse_receivers
from replicator.server.notify.formats import document, lines_of
from replicator.server.notify.message import Message, MessageState, NotifyTiming, Occasion, cause_example
from replicator.server.notify.sending import MAX_PENDING
from replicator.server.posting import SECONDS
from replicator.settings import Settings
from tests.docs.pages import ROOT, blocks
from tests.server.notify.conftest import NOW, ORIGIN

PAGE = ROOT / "docs" / "notifications.md"
TEXT = PAGE.read_text()
_CAUSES = Causes()
for _name in ("app", "web", "db"):
    _DENIED = ErrorText(
        f"registry.cn-beijing.aliyuncs.com: PUT /v2/team-mirror/{_name}/manifests/v1",
        "403, the registry says: DENIED: requested access to the resource is denied",
        "check the namespace, the login and its permissions",
    )
    _SOURCE, _DESTINATION = (
        f"harbor.example.com/team/{_name}:v1",
        f"registry.cn-beijing.aliyuncs.com/team-mirror/{_name}:v1",
    )
    _CAUSES.add("permanent", _DENIED.stored, _SOURCE, _DESTINATION)
(CAUSE,) = _CAUSES.sorted()
SHOWN = Message(
    id="5f0c6a1e9d3b4c7f8a2e1d0c9b8a7f6e",
    occasion=Occasion.DEAD_LETTERS,
    state=MessageState.TROUBLE,
    title="replicator: 3 copies failed and are not retried automatically, for one reason",
    at=NOW + 360_000,
    since=NOW + 300_000,
    count=3,
    examples=(cause_example(CAUSE),),
    advice=(
        "Run replicator failures to see all of them, by cause.",
        f"Once the cause is fixed, run {CAUSE.command('retry')}",
    ),
)


def block(language: str) -> str:
    (found,) = [each.text for each in blocks(language) if each.page == PAGE and "REPLICATOR_" not in each.text]
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
