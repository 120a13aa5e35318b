"""What a registry has told of itself is known to the next process before its first request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.aliyun.acr import EDITIONS, Edition, edition_of
from replicator.reference import Repository
from replicator.rules import parse
from replicator.server.runtime import open_copier
from replicator.settings import load_settings
from tests.queue.conftest import prefix, queue, server, short_dir
from tests.standins.logins import ACR_USER

if TYPE_CHECKING:
    import pytest

    from replicator.queue import Queue
    from tests.standins.acr import AcrStandIn

__all__ = ["prefix", "queue", "server", "short_dir"]


async def test_the_queue_keeps_the_edition_of_a_registry(
    acr: AcrStandIn, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATOR_STATE_DIR", "/nonexistent/state")
    rules = parse(
        f"""
        auth:
          {acr.host}: {{username: '{ACR_USER[0]}', password: '{ACR_USER[1]}', insecure: true}}
          harbor.example.com: {{anonymous: true}}
        images: {{harbor.example.com/team/app: {acr.host}/cache/app}}
        """,
        "rules",
        environ={},
    )
    async with open_copier(load_settings(), rules, queue) as (registries, _):
        await registries.destination(Repository(acr.host, "cache/app")).head_destination("v1")
        assert edition_of(acr.host) is Edition.PERSONAL
    EDITIONS.clear()
    acr.faults.log.clear()
    async with open_copier(load_settings(), rules, queue):
        assert edition_of(acr.host) is Edition.PERSONAL
    assert len(acr.faults.log) == 0
