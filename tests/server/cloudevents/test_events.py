"""What is sent: CloudEvents as the AsyncAPI document has them, with ids and signatures that a receiver can rely on."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator

from replicator.errors import ErrorClass, ErrorText
from replicator.queue import Ended, Findings, Lane, ReconcileResult
from replicator.queue.outbox import EventType, OutboxEntry
from replicator.server.cloudevents.delivery import sign
from replicator.server.cloudevents.models import document, encode, event_of
from tests.docs.pages import ROOT, blocks
from tests.standins.event_receiver import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DIGEST = "sha256:" + "d" * 64
ENDED = Ended(
    NOON, "r.example/a:1", Lane.EVENTS, "copied", "h.example/a:1", "a rule", "", None, 42, 1.0, 2.0, 1, digest=DIGEST
)
PUSHED = replace(ENDED, pushed=NOON - timedelta(seconds=2))
FAILED = replace(
    ENDED, result="given up", error_class=ErrorClass.NOT_YET, note=ErrorText("no", "why", "do").stored, digest=""
)
RECONCILE = ReconcileResult(NOON, NOON + timedelta(seconds=9), "host", Findings(listed=3, up_to_date=2, failed=1))
PAGE = [block for block in blocks() if block.page.name == "cloudevents.md"]


def entry(kind: EventType, end: Ended | ReconcileResult, at: datetime = NOON) -> OutboxEntry:
    return OutboxEntry("1-1", kind, at, end)


def id_of(kind: EventType, end: Ended | ReconcileResult, at: datetime = NOON) -> str:
    event = event_of(entry(kind, end, at), "/replicator/test")
    assert event is not None
    return event.id


def block(language: str) -> list[str]:
    return [each.text for each in PAGE if each.language == language]


def validator(kind: str) -> Draft7Validator:
    found = document()
    payload = found["components"]["messages"][kind]["payload"]
    schema = {**payload, "components": found["components"]}
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (EventType.COPIED, ENDED),
        (EventType.COPIED, PUSHED),
        (EventType.UP_TO_DATE, replace(ENDED, digest="", source="", rule="", lag=None, tries=0)),
        (EventType.FAILED, FAILED),
        (EventType.RECONCILED, RECONCILE),
        (EventType.RECONCILED, replace(RECONCILE, findings=Findings(error="no answer"))),
    ],
)
def test_each_event_is_as_the_document_says(kind: EventType, end: Ended | ReconcileResult) -> None:
    event = event_of(entry(kind, end), "/replicator/test")
    assert event is not None
    sent = json.loads(encode(event))
    validator(kind).validate(sent)
    assert (sent["type"], sent["specversion"], sent["time"]) == (kind, "1.0", "2026-01-01T12:00:00.000Z")


def test_a_failure_has_three_parts_and_a_class_in_one_word() -> None:
    event = event_of(entry(EventType.FAILED, FAILED), "")
    assert event is not None
    data = json.loads(encode(event))["data"]
    assert (data["class"], data["what"], data["why"], data["do"]) == ("not_yet", "no", "why", "do")


def test_the_document_names_every_event_and_refers_to_nothing_that_it_lacks() -> None:
    found = document()
    assert set(found["components"]["messages"]) == set(EventType)

    def check(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(reference := value.get("$ref"), str):
                place: Any = found
                for part in reference.removeprefix("#/").split("/"):
                    place = place[part]
            list(map(check, value.values()))
        elif isinstance(value, list):
            list(map(check, value))

    check(found)


def test_one_arrival_has_one_id_and_each_other_has_another() -> None:
    later = NOON + timedelta(minutes=1)
    # An attempt that repeats what one before it may have done ends later.
    assert id_of(EventType.COPIED, PUSHED) == id_of(EventType.COPIED, replace(PUSHED, tries=2, bytes=0), later)
    others = {
        id_of(EventType.COPIED, PUSHED),
        id_of(EventType.UP_TO_DATE, PUSHED),
        id_of(EventType.COPIED, replace(PUSHED, id="r.example/a:2")),
        id_of(EventType.COPIED, replace(PUSHED, digest="sha256:" + "e" * 64)),
        # A tag that is moved back: the same digest by another push, and without one.
        id_of(EventType.COPIED, replace(PUSHED, pushed=NOON)),
        id_of(EventType.COPIED, ENDED, NOON + timedelta(seconds=1)),
        id_of(EventType.COPIED, ENDED, later),
        id_of(EventType.FAILED, replace(FAILED, pushed=NOON)),
        id_of(EventType.FAILED, replace(FAILED, pushed=NOON), later),
        id_of(EventType.RECONCILED, RECONCILE),
    }
    assert len(others) == 10


def test_a_signature_is_that_of_standard_webhooks() -> None:
    # The vector of its libraries.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_verification_in_the_page_takes_what_is_signed_and_nothing_else() -> None:
    (code,) = block("python")
    scope: dict[str, Any] = {}
    exec(code, scope)
    verify: Callable[[dict[str, str], bytes, str], None] = scope["verify"]
    now, body = int(time.time()), '{"镜像": 1}'.encode()

    def headers(timestamp: int = now, key: bytes = KEY) -> dict[str, str]:
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(key, "msg_1", timestamp, body),
        }

    verify(headers(), body, SECRET)
    verify({**headers(), "webhook-signature": f"v1a,x v1,{'A' * 43}= {headers()['webhook-signature']}"}, body, SECRET)
    for wrong in (
        (headers(), body + b" "),
        (headers(key=b"x" * 32), body),
        (headers(now - 600), body),
        ({**headers(), "webhook-id": "msg_2"}, body),
        ({**headers(), "webhook-timestamp": str(now - 1)}, body),
    ):
        with pytest.raises(ValueError, match="not signed"):
            verify(*wrong, SECRET)


@pytest.mark.parametrize(("tail", "code"), [(b"", 0), (b" ", 1)])
def test_the_verification_in_the_page_for_a_shell_does_so_too(tail: bytes, code: int) -> None:
    (script,) = [text for text in block("sh") if "openssl dgst" in text]
    now, body = int(time.time()), b'{"a": 1}'
    facts = {"SECRET": SECRET, "ID": "msg_1", "TIMESTAMP": str(now), "SIGNATURE": sign(KEY, "msg_1", now, body)}
    done = subprocess.run(["sh", "-c", script], input=body + tail, env={"PATH": "/usr/bin:/bin", **facts}, timeout=30)
    assert done.returncode == code


def test_the_event_in_the_page_is_one() -> None:
    (text,) = block("json")
    validator("image.copied").validate(json.loads(text))
    event = event_of(entry(EventType.COPIED, PUSHED), "")
    assert event is not None
    assert list(json.loads(text)) == list(json.loads(encode(event)))
    assert list(json.loads(text)["data"]) == list(json.loads(encode(event))["data"])
    assert json.loads((ROOT / "docs" / "events.asyncapi.json").read_text()) == document()
