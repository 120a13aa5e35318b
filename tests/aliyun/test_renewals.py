"""Copies that outlast a temporary login."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Copier, Result
from replicator.replication.transfer import transfer
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import image, put_manifest, verify_tree
from tests.standins.openapi import TEMPORARY
from tests.standins.tokens import Account

if TYPE_CHECKING:
    from tests.aliyun.conftest import Stage

LARGE = image(7, (3_000_000, 500))


class Clock:
    """The monotonic clock of logins and tokens, which a test can put forward; no other clock changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        for module in ("aliyun.on_demand", "registry.credentials", "registry.auth"):
            monkeypatch.setattr(f"replicator.{module}.time", self)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_an_upload_during_which_login_and_token_expire_ends_well(
    stage: Stage, clock: Clock, acr_upstream: str
) -> None:
    await stage.source.push("large", LARGE)
    hold = Hold()
    held = stage.acr.faults.add(Fault(hold, "PUT", "/blobs/uploads/"))
    under_way = asyncio.Event()

    def progress(read: int, _: int = 0, /) -> None:
        if read:
            under_way.set()

    async def end_all() -> None:
        await under_way.wait()
        clock.ahead += 3600
        stage.acr.accounts[TEMPORARY] = Account("ended")
        stage.acr.tokens.revoke_all()
        hold.released.set()

    async with stage.registries(stage.access()) as registries, asyncio.TaskGroup() as tasks:
        tasks.create_task(end_all())
        outcome = await transfer(Copier(registries), stage.request("cache/app", source="large"), progress=progress)
    assert (held.hits, outcome.result, stage.openapi.given) == (1, Result.COPIED, 2)
    await verify_tree(acr_upstream, "cache/app", "v1", LARGE)


async def test_tags_copied_over_hours_never_use_an_expired_login(stage: Stage, clock: Clock, acr_upstream: str) -> None:
    root = image(1)
    for number in range(12):
        await put_manifest(stage.source.plain, "team/app", f"t{number}", root)
    async with stage.registries(stage.access()) as registries:
        copier = Copier(registries)
        for number in range(12):
            outcome = await transfer(copier, stage.request("cache/app", f"t{number}", source=f"t{number}"))
            assert outcome.result is Result.COPIED
            clock.ahead += 600
    assert stage.openapi.given == 3
    assert stage.acr.token_faults.log.count(status=401) == 0
    await verify_tree(acr_upstream, "cache/app", "t11", root)


async def test_a_login_that_is_revoked_early_is_replaced(stage: Stage, clock: Clock) -> None:
    async with stage.registries(stage.access()) as registries:
        copier = Copier(registries)
        await transfer(copier, stage.request("cache/app"))
        clock.ahead += 400
        stage.acr.accounts[TEMPORARY] = Account("ended")
        outcome = await transfer(copier, stage.request("cache/app", "v2"))
    assert (outcome.result, stage.openapi.given) == (Result.COPIED, 2)


async def test_copies_go_on_with_the_cached_login_while_the_openapi_is_unreachable(stage: Stage, clock: Clock) -> None:
    async with stage.registries(stage.access()) as registries:
        copier = Copier(registries)
        await transfer(copier, stage.request("cache/app"))
        away = stage.openapi.faults.add(Fault(Answer(503), times=None))
        clock.ahead += 3300
        outcome = await transfer(copier, stage.request("cache/app", "v2"))
    assert outcome.result is Result.COPIED
    assert away.hits > 0
