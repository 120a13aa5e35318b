"""What ``history`` prints, and the commands that leave a line in it."""

from __future__ import annotations

import io
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import SecretStr
from rich.console import Console

from replicator.commands.failures import drop_failures, failures_table, letter_json, retry_failures
from replicator.commands.history import draw_history, history_json, print_history
from replicator.commands.queue import jobs_json
from replicator.commands.status import approve_replacements
from replicator.commands.webhook import Scope, register_policies, remove_policies
from replicator.console import page
from replicator.errors import FAILED, OK, ErrorClass, ErrorText
from replicator.harbor.registration import Change, PolicyChange
from replicator.queue import Action, DeadLetter, Ended, Findings, History, Lane, PendingJob, ReconcileResult, Reconciles
from replicator.settings import Settings
from tests.queue.conftest import prefix, queue, server, short_dir
from tests.server.page.seeding import bury, letter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import Queue
    from tests.queue.servers import RedisServer

__all__ = ["prefix", "queue", "server", "short_dir"]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COPY = Ended(
    NOON, "r.example/a:1", Lane.EVENTS, "given up", "", "", "denied\x1b[2J", ErrorClass.PERMANENT, 0, 1.5, None, 3
)
READ = History(
    NOON,
    ended=(COPY,),
    reconciles=(ReconcileResult(NOON - timedelta(minutes=1), NOON, "node-1", Findings(listed=7, drift=2)),),
    actions=tuple(Action(NOON, "drop", f"dead letter {n}", "alice@host") for n in range(3)),
)


@pytest.fixture(autouse=True)
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-1")
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.delenv("SUDO_USER", raising=False)


async def test_an_approval_by_hand_is_in_the_history_and_there_must_be_something_to_approve(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def existing(_: Settings) -> AsyncIterator[Queue]:
        yield queue

    monkeypatch.setattr("replicator.commands.status.existing_queue", existing)
    out, err = Console(file=io.StringIO(), width=200), Console(file=io.StringIO(), width=200)
    assert await approve_replacements(Settings(), out=out, err=err) == FAILED
    lease = await Reconciles(queue).begin(None)
    assert lease is not None
    await lease.end(Findings(listed=2000, up_to_date=1700, held=300), "rules")
    assert await approve_replacements(Settings(), out=out, err=err) == OK
    assert "approved: the next reconcile may replace 300 images" in cast("io.StringIO", out.file).getvalue()
    (action,) = (await History.read(queue)).actions
    assert (action.action, action.by) == ("approve", "alice@node-1")
    assert action.what.endswith("replace 300 of 2,000 images")
    printed = io.StringIO()
    assert await approve_replacements(Settings(), as_json=True, out=Console(file=printed), err=err) == OK
    assert json.loads(printed.getvalue()) == {"approved": True, "images": 300}


def printed(what: Any) -> str:
    out = Console(file=io.StringIO(), width=200)
    page(what, out)
    return cast("io.StringIO", out.file).getvalue()


def test_the_newest_of_each_kind_are_shown() -> None:
    text = printed(draw_history(READ, 2))
    assert "drop: dead letter 1" in text
    assert "dead letter 2" not in text, "no more than were asked for"
    for part in ("alice@host", "on node-1", "r.example/a:1", "given up", "denied", "(unknown source)"):
        assert part in text
    assert "\x1b" not in text
    empty = printed(draw_history(History(NOON), 2))
    assert all(none in empty for none in ("No actions.", "No reconciles.", "No copies."))


def test_what_was_replaced_and_what_a_reconcile_left_undone_are_shown() -> None:
    held = ReconcileResult(NOON, NOON, "node-1", Findings(listed=200, up_to_date=80, held=120))
    read = replace(READ, ended=(replace(COPY, replaced="sha256:abc"),), reconciles=(held,))
    assert history_json(read)["copies"][0]["replaced"] == "sha256:abc"
    assert history_json(READ)["copies"][0]["replaced"] is None
    text = printed(draw_history(read, 2))
    assert "replaced: sha256:abc" in text
    assert "120 existing images wait for an approval" in text
    assert "replaced:" not in printed(draw_history(READ, 2))


def test_json_has_all_of_it_with_times_in_utc() -> None:
    values = json.loads(json.dumps(history_json(READ)))
    assert len(values["actions"]) == 3
    assert values["actions"][0] == {
        "at": "2026-01-01T12:00:00.000Z",
        "action": "drop",
        "what": "dead letter 0",
        "by": "alice@host",
    }
    assert values["reconciles"][0]["drift"] == 2
    (copy,) = values["copies"]
    assert (copy["destination"], copy["source"], copy["error_class"]) == ("r.example/a:1", None, "permanent")


async def actions(queue: Queue) -> list[tuple[str, str, str]]:
    return [(each.action, each.what, each.by) for each in (await History.read(queue)).actions]


def settings_for(server: RedisServer, prefix: str) -> Settings:
    return Settings(redis_url=SecretStr(server.url), redis_prefix=prefix)


async def test_retries_and_drops_of_dead_letters_are_noted_and_those_of_nothing_are_not(
    queue: Queue, server: RedisServer, prefix: str
) -> None:
    settings, out = settings_for(server, prefix), Console(file=io.StringIO(), width=200)
    first, *others = (letter(n) for n in range(1, 4))
    await bury(queue, first, *others)
    assert await retry_failures(settings, [first["id"]], out=out, err=out) == 0
    assert await retry_failures(settings, [first["id"]], out=out, err=out) == 1
    assert await drop_failures(settings, None, out=out, err=out) == 0
    assert await drop_failures(settings, None, out=out, err=out) == 0
    assert await actions(queue) == [
        ("drop", "all 2 dead letters", "alice@node-1"),
        ("retry", f"dead letter {first['id']}", "alice@node-1"),
    ]
    await print_history(settings, as_json=False, limit=20, out=out)
    assert "drop: all 2 dead letters" in cast("io.StringIO", out.file).getvalue()


class Policies:
    """Policies of which a change is reported, without any Harbor."""

    def silent(self) -> list[str]:
        return []

    async def register(self, *_: Any, **__: Any) -> list[PolicyChange]:
        return [PolicyChange("h.example", name, change) for name, change in zip("abc", Change, strict=False)]

    async def unregister(self, *_: Any, **__: Any) -> list[PolicyChange]:
        return [PolicyChange("h.example", "a", Change.REMOVED), PolicyChange("h.example", "b", Change.ABSENT)]


class FakeScope:
    """The part of `Scope` that a command uses."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Policies]:
        yield Policies()


async def test_webhooks_that_were_registered_or_removed_are_noted(
    queue: Queue, server: RedisServer, prefix: str
) -> None:
    settings = settings_for(server, prefix).model_copy(
        update={"webhook_url": "https://r.example/webhooks/harbor", "webhook_token": SecretStr("t")}
    )
    scope, out = cast("Scope", FakeScope(settings)), Console(file=io.StringIO())
    assert await register_policies(scope, skip_cert_verify=False, as_json=False, out=out) == 0
    assert await remove_policies(scope, as_json=True, out=out) == 0
    assert await actions(queue) == [
        ("unregister webhook", "h.example/a", "alice@node-1"),
        ("register webhook", "h.example/a, h.example/b", "alice@node-1"),
    ]


async def test_webhooks_are_registered_where_there_is_no_queue(server: RedisServer) -> None:
    settings = Settings(
        redis_url=SecretStr("redis://127.0.0.1:1"),
        webhook_url="https://r.example/webhooks/harbor",
        webhook_token=SecretStr("t"),
    )
    scope, out = cast("Scope", FakeScope(settings)), Console(file=io.StringIO())
    assert await register_policies(scope, skip_cert_verify=False, as_json=True, out=out) == 0


STORED = ErrorText("acr.example: PUT /v2/", "403, the registry says: DENIED", "ask for a permission").stored
PARTS = {"what": "acr.example: PUT /v2/", "why": "403, the registry says: DENIED", "do": "ask for a permission"}
JOINED = "acr.example: PUT /v2/: 403, the registry says: DENIED; ask for a permission"


def test_programs_get_an_error_in_three_fields_and_people_on_three_lines() -> None:
    dead = DeadLetter("r.example/a:1", Lane.EVENTS, None, ErrorClass.PERMANENT, STORED, 1, NOON, NOON)
    assert letter_json(dead).items() >= {"message": JOINED, **PARTS}.items()
    ended = history_json(replace(READ, ended=(replace(COPY, note=STORED),)))["copies"][0]
    assert ended.items() >= {"note": JOINED, **PARTS}.items()
    well = history_json(replace(READ, ended=(replace(COPY, note="skipped", error_class=None),)))["copies"][0]
    assert (well["note"], well["what"], well["why"], well["do"]) == ("skipped", None, None, None)
    job = PendingJob("r.example/a:1", "waiting", Lane.EVENTS, "s", "r", NOON, STORED)
    assert jobs_json([job], 1, [])["copies"][0].items() >= {"message": JOINED, **PARTS}.items()
    for drawn in (failures_table([dead]), draw_history(replace(READ, ended=(replace(COPY, note=STORED),)), 1)):
        lines = [line.strip() for line in printed(drawn).splitlines()]
        assert [any(line.startswith(words) for line in lines) for words in PARTS.values()] == [True, True, True]
