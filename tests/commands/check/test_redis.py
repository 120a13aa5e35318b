"""What `replicator check` finds of a Redis."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from replicator.commands.check.findings import FindingState
from replicator.commands.check.queue import compare_rules, judge_file, judge_memory, look_at_processes, try_redis
from replicator.errors import ErrorText
from replicator.queue import (
    Findings,
    InForce,
    LoadedConfig,
    Queue,
    Reconciles,
    Selection,
    announced,
    pause,
    processes,
)
from replicator.rules import parse
from replicator.settings import Settings
from tests.commands.check.clocks import WrongClock
from tests.docs.pages import ROOT
from tests.queue.conftest import eventually
from tests.queue.servers import RedisServer, Replicated, ask
from tests.queue.tair import TairProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replicator.rules import Rules

DOCUMENTED = re.search(r"^user replicator on >change-me (.*)$", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "r") as server:
        yield server


async def probed(url: str, state: FindingState) -> dict[str, str]:
    """The messages of a state by name; several of one name are joined."""
    found: dict[str, str] = {}
    for finding in await try_redis(url, "replicator"):
        if finding.state is state:
            found[finding.name] = "; ".join(filter(None, [found.get(finding.name), finding.message]))
    return found


async def user(server: RedisServer, rights: str) -> str:
    """Make a user; return the URL for it."""
    async with Redis(unix_socket_path=str(server.socket)) as redis:
        await redis.execute_command("ACL", "SETUSER", "checker", "on", ">hidden", *rights.split())  # type: ignore[no-untyped-call]  # redis-py leaves it without types
    return f"unix://checker:hidden@{server.socket}"


async def test_a_running_process_that_does_not_use_its_files_is_told(own: RedisServer) -> None:
    settings = Settings(_env_file=None, redis_url=own.url)
    state = LoadedConfig(1.0, None)
    async with await Queue.connect(own.url) as queue, announced(queue, "worker", "1", lambda: state):
        await eventually(lambda: processes(queue))
        assert await look_at_processes(settings) == []
    state = LoadedConfig(1.0, "b.yaml: a typing mistake", 2.0)
    async with await Queue.connect(own.url) as queue, announced(queue, "serve", "1", lambda: state):
        await eventually(lambda: processes(queue))
        (found,) = await look_at_processes(settings)
    assert (found.name, found.state) == ("configuration", FindingState.FAILED)
    parts = ErrorText.parse(found.message)
    assert parts.what.endswith("does not use the current files since 1970-01-01T00:00:02.000Z")
    assert (parts.why, bool(parts.do)) == ("b.yaml: a typing mistake", True)
    own.stop()
    assert await look_at_processes(settings) == [], "the line of Redis says so"


async def test_one_that_is_as_it_should_be_is_told_to_be_so(own: RedisServer) -> None:
    own.stop()
    own.options = ("--maxmemory-policy", "noeviction")
    own.start()
    found = await try_redis(own.url, "replicator")
    assert [(each.name, each.state) for each in found] == [
        ("redis", FindingState.OK),
        ("redis settings", FindingState.OK),
        ("redis settings", FindingState.OK),
        ("clock", FindingState.OK),
    ]
    assert "appendfsync always" in found[1].message


@pytest.mark.parametrize("snapshots", ["", "60 1"], ids=["nothing", "snapshots"])
async def test_one_without_an_append_only_file_is_told(own: RedisServer, snapshots: str) -> None:
    own.stop()
    own.options = ("--appendonly", "no", "--save", snapshots)
    own.start()
    assert "set appendonly yes" in (await probed(own.url, FindingState.FAILED))["redis settings"]


async def test_one_that_may_lose_the_last_second_is_told_what_helps(own: RedisServer) -> None:
    own.stop()
    own.options = ("--appendfsync", "everysec")
    own.start()
    assert "appendfsync always" in (await probed(own.url, FindingState.OK))["redis settings"]


async def test_one_that_evicts_is_told(own: RedisServer) -> None:
    own.stop()
    own.options = ("--maxmemory-policy", "allkeys-lru")
    own.start()
    assert "maxmemory-policy noeviction" in (await probed(own.url, FindingState.FAILED))["redis settings"]


async def test_one_whose_memory_is_full_is_told(own: RedisServer) -> None:
    own.stop()
    own.options = ("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    own.start()
    async with Redis(unix_socket_path=str(own.socket)) as redis:
        await redis.config_set("maxmemory", 1)
    assert "raise maxmemory" in (await probed(own.url, FindingState.FAILED))["redis"]


async def test_a_replica_is_told(own: RedisServer) -> None:
    async with Redis(unix_socket_path=str(own.socket)) as redis:
        await redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]  # as above
    assert "set REPLICATOR_REDIS_URL to its master" in (await probed(own.url, FindingState.FAILED))["redis"]


async def test_how_many_replicas_hold_an_event_is_told(tmp_path: Path) -> None:
    with Replicated(tmp_path) as servers:
        assert "after 1 replica holds it" in (await probed(servers.master.url, FindingState.OK))["redis replicas"]
        ask(servers.master, "ACL SETUSER default -wait")
        told = await probed(servers.master.url, FindingState.NOT_TRIED)
        assert "WAIT is refused" in told["redis replicas"]
        ask(servers.master, "ACL SETUSER default +wait")
        servers.replicas[0].send_signal(signal.SIGSTOP)
        told = await probed(servers.master.url, FindingState.FAILED)
        assert "events get 503" in told["redis replicas"]
        async with Redis(unix_socket_path=str(servers.master.socket)) as redis:
            assert await redis.keys() == []


async def test_a_proxy_that_checks_scripts_is_told_which_parameter_to_change(tmp_path: Path) -> None:
    async with TairProxy(tmp_path, script_check=True) as proxy:
        (found,) = await try_redis(proxy.url, "{replicator}")
    assert found.state is FindingState.FAILED
    assert "script_check_enable to 0" in found.message


async def test_a_proxy_over_whose_shards_the_prefix_spreads_the_keys_is_told_the_prefix(tmp_path: Path) -> None:
    async with TairProxy(tmp_path) as proxy:
        (found,) = await try_redis(proxy.url, "replicator")
        assert "put REPLICATOR_REDIS_PREFIX in braces" in found.message
        braced = await try_redis(proxy.url, "{replicator}")
    states = {each.name: each.state for each in braced}
    assert states["redis"] is FindingState.OK
    assert "WAIT is refused" in next(each.message for each in braced if each.name == "redis replicas")


@pytest.mark.parametrize("ahead", [3600, -90])
async def test_a_clock_that_is_wrong_is_told(own: RedisServer, tmp_path: Path, ahead: float) -> None:
    async with WrongClock(tmp_path / "clock.sock", own.socket, ahead) as clock:
        found = await probed(clock.url, FindingState.FAILED)
    assert "synchronize both by NTP" in found["clock"]
    assert ("ahead of" if ahead > 0 else "behind") in found["clock"]


async def test_a_clock_that_was_set_back_is_told_for_a_day(own: RedisServer) -> None:
    async with await Queue.connect(own.url) as queue:
        seconds, _ = await queue.redis.time()
        for ago, state in ((3600, FindingState.NOT_TRIED), (90_000, FindingState.OK)):
            await queue.redis.hset("replicator:clock", mapping={"back": (seconds - ago) * 1000, "by": 3_600_000})  # type: ignore[misc]  # redis-py's union
            found = await probed(own.url, state)
            assert ("set back by 3600 s" in found["clock"]) == (state is FindingState.NOT_TRIED)


async def test_a_clock_that_is_right_within_a_minute_is_no_complaint(own: RedisServer, tmp_path: Path) -> None:
    async with WrongClock(tmp_path / "clock.sock", own.socket, 20) as clock:
        assert "clock" in await probed(clock.url, FindingState.OK)


async def test_a_wrong_password_is_told_and_not_repeated(own: RedisServer) -> None:
    await user(own, "~* &* +@all")
    for login in ("checker:mistyped", "nobody:mistyped", ":mistyped"):
        url = own.url.replace("unix://", f"unix://{login}@")
        message = (await probed(url, FindingState.FAILED))["redis"]
        assert "check user and password" in message
        assert "mistyped" not in message


async def test_one_that_wants_a_password_is_told(own: RedisServer) -> None:
    own.stop()
    own.options = ("--requirepass", "hidden")
    own.start()
    assert "check user and password" in (await probed(own.url, FindingState.FAILED))["redis"]


@pytest.mark.parametrize(
    "rights",
    [
        "~other:* &* +@all -@dangerous",
        "~replicator:* &* +@all -@dangerous",
        "~replicator:* ~arq:*:replicator:* &* +@all -@scripting",
        "~replicator:* ~arq:*:replicator:* &* +@all -@write",
        "~replicator:* ~arq:*:replicator:* &* +@all -time",
    ],
    ids=["other keys", "half of the keys", "no scripts", "no writes", "no time"],
)
async def test_a_user_with_too_few_rights_is_told_where_they_are_written(own: RedisServer, rights: str) -> None:
    message = (await probed(await user(own, rights), FindingState.FAILED))["redis"]
    assert "docs/deployment.md" in message
    assert "hidden" not in message


async def test_the_user_of_the_documentation_suffices_and_what_it_may_not_ask_is_told(own: RedisServer) -> None:
    assert DOCUMENTED is not None
    url = await user(own, DOCUMENTED[1])
    assert await probed(url, FindingState.FAILED) == {}
    assert "INFO" in (await probed(url, FindingState.NOT_TRIED))["redis settings"]
    assert set(await probed(url, FindingState.OK)) == {"redis", "clock"}
    url = await user(own, f"{DOCUMENTED[1]} +info")
    assert await probed(url, FindingState.NOT_TRIED) == {}


async def test_one_that_refuses_to_tell_its_configuration_is_judged_by_what_it_tells(own: RedisServer) -> None:
    own.stop()
    own.options = ("--rename-command", "CONFIG", "")
    own.start()
    assert "flushed to disk (no CONFIG GET)" in (await probed(own.url, FindingState.OK))["redis settings"]
    assert await probed(own.url, FindingState.NOT_TRIED) == {}


async def test_nothing_in_it_differs_afterwards(own: RedisServer) -> None:
    async with Redis(unix_socket_path=str(own.socket)) as redis:
        await redis.set("replicator:seq", 7)
        await redis.set("other", "x", px=600_000)
        before = await content(redis)
        assert all(each.state is FindingState.OK for each in await try_redis(own.url, "replicator"))
        assert await content(redis) == before


async def content(redis: Redis) -> dict[bytes, tuple[bytes, bool]]:
    return {key: (await redis.dump(key), await redis.pttl(key) > 0) for key in sorted(await redis.keys())}


INFO: dict[str, Any] = {"aof_last_write_status": "ok"}


@given(st.none() | st.text(), st.none() | st.text())
def test_only_what_is_known_to_be_kept_counts_as_kept(appendonly: str | None, appendfsync: str | None) -> None:
    state, message = judge_file(appendonly, appendfsync, INFO)
    assert (state is FindingState.OK) == (appendonly in ("yes", "1"))
    assert (state is FindingState.NOT_TRIED) == (appendonly is None)
    assert "appendonly" in message or state is FindingState.OK


def test_what_a_service_does_not_offer_is_not_advised() -> None:
    for aliyun in (False, True):
        state, message = judge_file("1", "everysec", INFO, aliyun=aliyun)
        assert state is FindingState.OK
        assert ("appendfsync always" in message) != aliyun


def test_a_file_that_can_not_be_written_is_told() -> None:
    state, message = judge_file("1", "always", {"aof_last_write_status": "err"})
    assert (state, "disk" in message) == (FindingState.FAILED, True)


@given(st.none() | st.text())
def test_only_a_policy_that_never_evicts_is_right(policy: str | None) -> None:
    state, message = judge_memory(policy)
    assert (state is FindingState.OK) == (policy == "noeviction")
    assert (state is FindingState.NOT_TRIED) == (policy is None)
    assert "noeviction" in message


async def test_what_waits_for_a_person_is_told(own: RedisServer) -> None:
    text = "auth: {h.example: {anonymous: true}}\nimages: {h.example/a: h.example/b}"
    async with await Queue.connect(own.url) as queue:
        await pause(queue, [Selection(source="team/**")], by="me")
        lease = await Reconciles(queue).begin(None)
        assert lease is not None
        await lease.end(Findings(listed=2000, up_to_date=1700, held=300), "rules")
        found = await compare_rules(own.url, "replicator", parse(text, "rules", environ={}))
        assert {each.state for each in found} == {FindingState.WARNING}
        (paused, held) = (each.message for each in found)
        assert "source team/** has been paused" in paused
        assert "replicator queue resume --source 'team/**'" in paused
        assert "300 existing images wait for an approval" in held


async def test_the_rules_are_compared_with_those_that_are_in_force(own: RedisServer) -> None:
    """With a version of the same file, with the same file, and with that of another installation."""

    def rules(*images: str) -> Rules:
        named = ", ".join(f"h.example/{image}: r.example/{image}" for image in images)
        text = f"auth: {{h.example: {{anonymous: true}}, r.example: {{anonymous: true}}}}\nimages: {{{named}}}"
        return parse(text, "rules", environ={})

    async def compared(*images: str) -> tuple[FindingState, str] | None:
        found = await compare_rules(own.url, "replicator", rules(*images))
        return (found[0].state, found[0].message) if found else None

    assert await compared("a", "b") is None
    async with await Queue.connect(own.url) as queue:
        redis: Any = queue.redis
        in_force = rules("a", "b")
        running = InForce(queue, in_force.digest, in_force.parts)
        async with announced(queue, "serve", "1", lambda: LoadedConfig(1.0, None), rules=running):
            assert await compared("a", "b") == (FindingState.OK, "1 process has these rules")
            state, message = await compared("a", "c") or (None, "")
            assert (state, "reload them (SIGHUP)" in message) == (FindingState.NOT_TRIED, True)
            state, message = await compared("c") or (None, "")
            assert (state, "its own REPLICATOR_REDIS_PREFIX" in message) == (FindingState.FAILED, True)
            # A one-off is meant to differ.
            one_off = InForce(queue, "f" * 32)
            async with announced(queue, "backfill", "1", lambda: LoadedConfig(1.0, None), rules=one_off):
                assert await compared("a", "b") == (FindingState.OK, "1 process has these rules")
            late = InForce(queue, "e" * 32, in_force.parts)
            async with announced(queue, "worker", "1", lambda: LoadedConfig(1.0, None), rules=late):
                assert (await compared("a", "b") or (None,))[0] is FindingState.NOT_TRIED
                for name, record in (await redis.hgetall("replicator:processes")).items():
                    longer = json.loads(record) | {"rules_since": json.loads(record)["seen"] - 400_000}
                    await redis.hset("replicator:processes", name, json.dumps(longer))
                state, message = await compared("a", "b") or (None, "")
                assert (state, "different rules for 6 min" in message) == (FindingState.FAILED, True)
