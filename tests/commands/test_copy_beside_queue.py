"""``replicator copy`` beside an installation: what it writes is not remembered wrongly, and no failure any more."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from replicator.commands import copy as command
from replicator.copy import Outcome, Result
from replicator.errors import FAILED, OK
from replicator.queue import Observations, Queue
from replicator.reference import Reference
from replicator.registry.credentials import Access
from replicator.settings import load_settings
from tests.queue.conftest import Recorder
from tests.queue.servers import RedisServer
from tests.queue.test_ended_letters import bury, left

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from replicator.rules.request import CopyRequest

SOURCE, DESTINATION = "h.example.com/a/b:1", "r.example.com/c/d:1"


async def copied(result: Result, monkeypatch: pytest.MonkeyPatch, source: str = SOURCE) -> int:
    async def transfer(_: Any, request: CopyRequest, *, confirm: Callable[[], Awaitable[None]]) -> Outcome:
        if result is Result.COPIED:
            await confirm()
        return Outcome(result, str(request.source), str(request.destination))

    monkeypatch.setattr(command, "transfer", transfer)
    ends = Reference.parse(source), Reference.parse(DESTINATION)
    return await command.copy_one(load_settings(), lambda _: Access(), *ends)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    monkeypatch.setenv("REPLICATOR_STATE_DIR", str(tmp_path / "state"))
    return RedisServer(tmp_path / "r")


async def test_it_takes_back_what_is_remembered_and_ends_the_failure_of_the_same_copy(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server:
        monkeypatch.setenv("REPLICATOR_REDIS_URL", server.url)
        async with await Queue.connect(server.url) as queue:
            async with aclosing(Observations(queue, deadline=30)) as checks:
                checks.record(DESTINATION, "one", time.time())
            await bury(queue, Recorder(), DESTINATION, source=SOURCE)
            assert await copied(Result.SKIPPED, monkeypatch) == FAILED
            assert await copied(Result.COPIED, monkeypatch, source="h.example.com/other:1") == OK
            assert await left(queue) == {DESTINATION}, "the failure of another copy"
            async with aclosing(Observations(queue, deadline=30)) as checks:
                assert await checks.confirmed([(DESTINATION, "one")], 3600) == [False]
                assert await checks.recall([DESTINATION]) == [None]
            assert await copied(Result.UP_TO_DATE, monkeypatch) == OK
            assert await left(queue) == set()


async def test_it_does_not_fail_and_makes_no_queue_for_want_of_one(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await copied(Result.COPIED, monkeypatch) == OK
    assert not load_settings().state_dir.exists()
    monkeypatch.setenv("REPLICATOR_REDIS_URL", server.url)
    assert await copied(Result.COPIED, monkeypatch) == OK
    assert "with --fast may miss this copy" in capsys.readouterr().err
