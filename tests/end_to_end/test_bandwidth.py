"""Limits of bandwidth and requests: from the settings to the line, by reload, and where a person sees them."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING

import aiohttp

from tests.commands.check.asking import checked, told
from tests.end_to_end.test_reload import LIBRARY, pushed
from tests.running import begun, replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.line import line
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House
    from tests.running import Serving


async def scraped(serving: Serving, path: str = "/metrics") -> str:
    login = {"Authorization": "Basic " + base64.b64encode(b"anyone:page").decode()}
    async with aiohttp.ClientSession() as session, session.get(f"{serving.url}{path}", headers=login) as answer:
        return await answer.text()


async def test_a_limit_holds_back_a_body_is_shown_and_can_be_lifted_while_it_is_under_way(house: House) -> None:
    file = house.directory / ".env"
    file.write_text("REPLICATOR_BANDWIDTH=400kbit/s\nREPLICATOR_REQUESTS_PER_SECOND=1000\n")
    settings = {"REPLICATOR_STATUS_TOKEN": "page"}
    limit = f'replicator_registry_upload_limit_bytes{{host="{house.acr.host}"}} 50000.0'
    sent = re.compile(rf'replicator_registry_sent_bytes_total{{host="{house.acr.host}"}} (\S+)')
    root = image(1, (4_000_000,))
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory, settings=settings) as serving:
        assert limit in await scraped(serving)
        async with asyncio.timeout(60):  # its first sign of life tells them
            while "limits: upload 400kbit/s; requests a second 1000" not in await scraped(serving, "/"):
                await asyncio.sleep(0.1)
        shown = await replicator("status", cwd=house.directory)
        assert "limits: upload 400kbit/s; requests a second 1000" in shown.out
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header="webhook-token-of-the-tests")
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        async with asyncio.timeout(60):
            while not (found := sent.search(await scraped(serving))) or float(found[1]) < 2048:
                await asyncio.sleep(0.05)
        # It would take more than a minute.
        file.write_text("REPLICATOR_BANDWIDTH=unlimited\n")
        await serving.until("configuration loaded")
        await serving.until("copy done", timeout=60)
        assert not serving.said("setting needs a restart")
        assert "replicator_registry_upload_limit_bytes{" not in await scraped(serving)
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", root)


async def test_a_limit_that_can_not_be_used_leaves_the_one_before_in_force(house: House) -> None:
    file = house.directory / ".env"
    file.write_text("REPLICATOR_BANDWIDTH=80Mbit/s\n")
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory) as serving:
        file.write_text("REPLICATOR_BANDWIDTH=80Mbps\n")
        (refused,) = await serving.until("configuration refused")
        assert "REPLICATOR_BANDWIDTH: '80Mbps'" in str(refused["problems"])
        assert "80Mbit/s for bits" in str(refused["problems"])
        assert f'upload_limit_bytes{{host="{house.acr.host}"}} 1e+07' in await scraped(serving)
        await pushed(house, serving, "library/app", "v1", 1)
        await serving.until("copy done")


async def test_a_copy_in_the_foreground_keeps_to_the_whole_limit(house: House) -> None:
    size = 700_000
    await push(house.behind_harbor, "library/app", "v1", image(2, (size,)))
    source = f"{house.harbor.host}/library/app:v1"
    async with line(house.behind_acr, rate=None) as front:
        auth = {
            **house.auth(),
            **{host: {"anonymous": True, "insecure": True} for host in (str(front), house.behind_acr)},
        }
        config = house.rules(LIBRARY, auth=auth)
        limited = ("copy", "--config", config, source, f"{front}/limited/app:v1")
        async with begun(*limited, cwd=house.directory, settings={"REPLICATOR_BANDWIDTH": "64kbit/s"}) as process:
            async with asyncio.timeout(30):
                while front.sent < 6_000:
                    await asyncio.sleep(0.05)
            # One without a limit overtakes it, though it begins later.
            ended = await replicator(
                "copy", "--config", config, source, f"{house.behind_acr}/other/app:v1", cwd=house.directory
            )
            assert ended.code == 0, ended.said
            assert front.sent < size / 2
            assert process.returncode is None


async def test_check_says_which_limits_are_in_force_until_when_and_for_nobody(house: House) -> None:
    lines = await checked(
        house,
        house.rules(LIBRARY),
        1,
        REPLICATOR_BANDWIDTH="00:00-12:00 UTC 20Mbit/s, else unlimited; other.example.com=1MB/s",
        REPLICATOR_REQUESTS_PER_SECOND="50",
    )
    said, wrong = told(lines, "ok")["limits"], told(lines, "failed")["limits"]
    assert re.search(r"(20Mbit/s|unlimited) until \S+ (12|00):00 UTC, then (20Mbit/s|unlimited)", said)
    assert "50" in said
    assert "The rules contain no registry other.example.com, so this limit" in wrong
