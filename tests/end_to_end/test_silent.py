"""A registry that says nothing delays nobody else, and its own copies go on with its first answer."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.registry.conftest import served
from tests.running import TOKEN, begun, replicator, running
from tests.standins.faults import Fault, Hold
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.outages import deaf
from tests.standins.proxy import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.conftest import House
    from tests.running import Serving

PUSHES = 6
QUICK = {"REPLICATOR_CONCURRENCY": "3", "REPLICATOR_CONNECT_TIMEOUT": "2", "REPLICATOR_DRAIN_TIMEOUT": "1"}


@asynccontextmanager
async def holding(house: House) -> AsyncIterator[tuple[str, Fault, Hold]]:
    """Have a registry that takes connections and, with the fault in force, answers only once it is released."""
    async with Upstream(house.behind_acr) as upstream, served(upstream.forward) as server:
        hold = Hold()
        fault = Fault(hold, times=0)
        server.faults.add(fault)
        yield server.host, fault, hold


async def done(serving: Serving, host: str, number: int) -> None:
    """Wait until so many copies to a host are done."""
    async with asyncio.timeout(60):
        while sum(str(line["destination"]).startswith(f"{host}/") for line in serving.said("copy done")) < number:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def two_destinations(house: House, silent: str) -> AsyncIterator[Serving]:
    """Serve with a rule that copies every push to the ACR and to another host."""
    auth = {**house.auth(), silent: {"anonymous": True, "insecure": True}}
    rules = house.rules({"HARBOR/library/**": ["ACR/image-syncer/{name}", f"{silent}/other/{{name}}"]}, auth=auth)
    async with running("serve", "--config", rules, cwd=house.directory, settings=QUICK) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        yield serving


async def push_all(house: House) -> None:
    for number in range(PUSHES):
        await push(house.harbor.host, "library/app", f"v{number}", image(number), HARBOR_ROBOT)


async def waiting(serving: Serving, silent: str) -> None:
    """Wait until ``/metrics`` says that nearly all copies to the silent registry wait for it."""
    said = re.compile(rf'replicator_registry_waiting_copies{{host="{re.escape(silent)}"}} (\S+)')
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        found = None
        while found is None or float(found[1]) < PUSHES - 4:
            await asyncio.sleep(0.5)
            async with session.get(f"{serving.url}/metrics") as answer:
                found = said.search(await answer.text())


@pytest.mark.parametrize("copied_before", [0, 1], ids=["says nothing", "froze after a good copy"])
async def test_copies_to_a_silent_registry_wait_and_those_to_another_do_not(house: House, copied_before: int) -> None:
    async with holding(house) as (silent, fault, hold), two_destinations(house, silent) as serving:
        if copied_before:
            await push(house.harbor.host, "library/app", "good", image(100), HARBOR_ROBOT)
            await done(serving, silent, 1)
            await done(serving, house.acr.host, 1)
        fault.times = None
        await push_all(house)
        # Its read timeout is a minute: nobody has waited for that.
        await done(serving, house.acr.host, copied_before + PUSHES)
        if not copied_before:
            await waiting(serving, silent)
            (told,) = json.loads(await _status(house))["silent"]
            assert told["registry"] == silent
        hold.released.set()
        await done(serving, silent, copied_before + PUSHES)
        assert {line["tries"] for line in serving.said("copy done")} == {1}
        assert not serving.said("job failed")
        if not copied_before:
            assert "silent" not in json.loads(await _status(house))


async def test_copies_to_a_host_that_takes_no_connection_delay_no_others(house: House) -> None:
    async with deaf() as silent, two_destinations(house, silent) as serving:
        await push_all(house)
        await done(serving, house.acr.host, PUSHES)
        assert not serving.said("job failed")


async def test_a_backfill_copies_to_others_though_the_tags_of_a_silent_registry_come_first(house: House) -> None:
    async with holding(house) as (silent, fault, _):
        fault.times = None
        for number in range(PUSHES):
            await push(house.behind_harbor, "library/first", f"v{number}", image(number))
            await push(house.behind_harbor, "library/second", f"v{number}", image(number))
        auth = {**house.auth(), silent: {"anonymous": True, "insecure": True}}
        images = {"HARBOR/library/first": f"{silent}/other/first", "HARBOR/library/second": "ACR/image-syncer/second"}
        arguments = ("backfill", "--config", house.rules(images, auth=auth), "--proc=3")
        async with (
            begun(*arguments, cwd=house.directory, settings=QUICK),
            aiohttp.ClientSession(f"http://{house.behind_acr}") as session,
            asyncio.timeout(55),
        ):
            tags: list[str] = []
            while len(tags) < PUSHES:
                await asyncio.sleep(0.2)
                async with session.get("/v2/image-syncer/second/tags/list") as answer:
                    tags = (await answer.json()).get("tags") or []


async def _status(house: House) -> str:
    ended = await replicator("status", "--json", cwd=house.directory)
    assert ended.code == 0, ended.said
    return ended.out
