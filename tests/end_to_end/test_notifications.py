"""Notifications of the running program: sent once, by one process, without delaying copies."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.commands.check.asking import checked, failed
from tests.end_to_end.test_reload import LIBRARY, pushed
from tests.queue.servers import RedisServer, free_port
from tests.running import PROGRAM, replicator, running
from tests.standins.chats import SECRETS, SLACK_PATH, Chats, chats, stalling
from tests.standins.event_receiver import SECRET
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.end_to_end.conftest import House

REFUSED = "replicator: the configuration has an error;"
RECOVERED = "replicator: recovered: the current configuration is in use everywhere"
WRONG = {"HARBOR/library/**": "ACR/image-syncer/{nonsense}"}


@pytest.fixture
async def robots() -> AsyncIterator[Chats]:
    async with chats() as running:
        yield running


@pytest.fixture(autouse=True)
def team(house: House) -> None:
    house.harbor.add_project("team")


def no_secret(said: object) -> bool:
    return not [secret for secret in SECRETS if secret in str(said)]


async def test_every_receiver_is_told_that_a_configuration_is_refused_and_that_it_is_right_again(
    house: House, robots: Chats
) -> None:
    settings = {"REPLICATOR_NOTIFY_URL": robots.all, "REPLICATOR_WEBHOOK_URL": "https://r.example.com/webhooks/harbor"}
    config = house.rules(LIBRARY)
    async with running("serve", "--config", config, cwd=house.directory, settings=settings) as serving:
        house.rules(WRONG)
        await robots.until(5)
        for text in map(str, robots.taken):
            assert f"{REFUSED} 1 process" in text
            assert "{nonsense}" in text
            assert "https://r.example.com/" in text
        house.rules(LIBRARY)
        await robots.until(10)
        assert all(RECOVERED in str(text) for text in robots.taken[5:])
        await serving.until("notification sent", 10)
        assert await serving.stop() == 0
        assert no_secret(serving.lines)


async def test_several_processes_tell_once_also_when_the_one_that_told_it_ends(
    house: House, robots: Chats, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        settings = {"REPLICATOR_NOTIFY_URL": robots.plain, "REPLICATOR_REDIS_URL": redis.url}
        config, cwd = house.rules(LIBRARY), house.directory
        async with (
            running("serve", "--config", config, cwd=cwd, settings=settings) as one,
            running("worker", "--config", config, cwd=cwd, settings=settings, ready="worker started") as two,
            running("worker", "--config", config, cwd=cwd, settings=settings, ready="worker started") as three,
        ):
            house.rules(WRONG)
            for each in (one, two, three):
                await each.until("configuration refused")
            await robots.until(1)
            async with asyncio.timeout(30):
                while not (tellers := [each for each in (one, two, three) if each.said("notification sent")]):
                    await asyncio.sleep(0.01)
            # The one that told it ends; another one takes its place, and knows what was told.
            assert await tellers[0].stop() == 0
            house.rules(LIBRARY)
            for each in [each for each in (one, two, three) if each is not tellers[0]]:
                await each.until("configuration loaded")
            await robots.until(2)
        assert [each["state"] for each in robots.taken] == ["trouble", "recovered"]


async def test_a_receiver_that_never_answers_delays_no_copy_and_no_stop(house: House, robots: Chats) -> None:
    robots.faults = [stalling] * 100
    settings = {"REPLICATOR_NOTIFY_URL": robots.plain}
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory, settings=settings) as serving:
        house.rules(WRONG)
        await serving.until("configuration refused")
        await pushed(house, serving, "library/app", "v1", 1)
        await serving.until("copy done")
        assert await serving.stop() == 0


async def test_a_sample_is_sent_to_everyone(robots: Chats, tmp_path: Path) -> None:
    ended = await replicator("notify", "test", cwd=tmp_path, settings={"REPLICATOR_NOTIFY_URL": robots.all})
    assert ended.code == 0, ended.said
    assert len(robots.taken) == 5
    assert [line.split()[0] for line in ended.out.splitlines()] == ["ok"] * 5
    assert no_secret(ended.said)


async def test_a_sample_that_is_not_taken_is_told_with_what_to_do(robots: Chats, tmp_path: Path) -> None:
    addresses = f"{robots.dingtalk}x http://127.0.0.1:{free_port()}/{SECRETS[0]} {robots.slack}"
    settings = {"REPLICATOR_NOTIFY_URL": addresses}
    ended = await replicator("notify", "test", "--json", cwd=tmp_path, settings=settings)
    assert ended.code == 1, ended.said
    lines = json.loads(ended.out)
    assert [line["ok"] for line in lines] == [False, False, True]
    assert "secret after #" in lines[0]["message"]
    assert "can't connect" in lines[1]["message"]
    assert [line["format"] for line in lines] == ["dingtalk", "json", "slack"]
    assert no_secret(ended.said)


async def test_a_receivers_own_authority_can_be_named(robots: Chats, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serve(robots, tls=context) as host:
        settings = {"REPLICATOR_NOTIFY_URL": f"slack+https://{host}{SLACK_PATH}"}
        ended = await replicator("notify", "test", cwd=tmp_path, settings=settings)
        assert (ended.code, len(robots.requests)) == (1, 0)
        assert "SSL_CERT_FILE" in ended.out
        settings["SSL_CERT_FILE"] = str(tmp_path / "ca.pem")
        ended = await replicator("notify", "test", cwd=tmp_path, settings=settings, program=PROGRAM)
    assert ended.code == 0, ended.said


async def test_a_sample_needs_a_receiver(tmp_path: Path) -> None:
    ended = await replicator("notify", "test", cwd=tmp_path)
    assert ended.code == 2
    assert "REPLICATOR_NOTIFY_URL" in ended.err


async def test_a_wrong_address_starts_nothing_and_is_not_shown(house: House) -> None:
    settings = {"REPLICATOR_NOTIFY_URL": f"https://oapi.dingtalk.com/robot/send?token={SECRETS[0]}"}
    for command in ("serve", "check"):
        ended = await replicator(command, "--config", house.rules(LIBRARY), cwd=house.directory, settings=settings)
        assert ended.code == 2
        assert "access_token" in ended.err
        assert no_secret(ended.said)


async def test_check_reaches_every_receiver_and_sends_nothing(house: House, robots: Chats) -> None:
    more = {"REPLICATOR_EVENTS_URL": f"http://{robots.host}/{SECRETS[0]}#{SECRET}"}
    lines = await checked(house, house.rules(LIBRARY), 0, REPLICATOR_NOTIFY_URL=robots.all, **more)
    told = [line for line in lines if line["name"] == "notify"]
    assert {line["state"] for line in told} == {"ok"}
    assert {line["subject"] for line in told} == {robots.host}
    assert any("dingtalk, signed" in line["message"] for line in told)
    assert [line["message"] for line in lines if line["name"] == "events"] == ["reachable"]
    assert robots.requests == []
    assert no_secret(lines)


async def test_check_finds_a_receiver_that_can_not_be_reached(house: House, robots: Chats) -> None:
    addresses = f"http://127.0.0.1:{free_port()}/{SECRETS[0]} https://{robots.host}/{SECRETS[1]}"
    lines = await checked(house, house.rules(LIBRARY), 1, REPLICATOR_NOTIFY_URL=addresses)
    told = [line["message"] for line in lines if line["name"] == "notify"]
    assert "can't connect" in told[0]
    assert "does not speak TLS" in told[1]
    assert failed(lines)["notify"] == "; ".join(told)
    assert no_secret(lines)
