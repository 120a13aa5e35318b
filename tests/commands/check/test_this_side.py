"""What `replicator check` finds of this machine: the address to listen on, and the embedded queue's directory."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from replicator.commands.check.findings import FindingState
from replicator.commands.check.queue import try_state_directory
from replicator.commands.check.webhook import try_address
from replicator.queue import Job, Lane, Queue, embedded_server, state_directory
from replicator.queue.state_directory import LOCK
from tests.commands.check.asking import RULE, checked, failed, told
from tests.queue.servers import RedisServer
from tests.running import running
from tests.standins.server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House


async def of_address(listen: str) -> tuple[FindingState, str]:
    (finding,) = await try_address(listen, "REPLICATOR_LISTEN")
    assert finding.name == "listen"
    return finding.state, finding.message


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "[::]", ""])
async def test_an_address_that_is_free_can_be_listened_on_and_is_free_afterwards(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for _ in range(2):
        assert (await of_address(f"{host}:{port}"))[0] is FindingState.OK
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"/healthz": "ok"},
        {"/healthz": '{"status": "ok"}'},
        {"/healthz": '{"status": "ok"}', "/readyz": '{"status": "up"}'},
        {"/healthz": '{"status": "ok"}', "/readyz": "[" * 20_000},
        {"/healthz": '["status"]'},
    ],
)
async def test_an_address_that_another_program_has_is_told(host: str, answers: dict[str, str]) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=answers.get(request.path, ""), status=200 if request.path in answers else 404)

    async with serve(answer) as address:
        state, message = await of_address(f"{host}:{address.rpartition(':')[2]}")
    assert (state, "set REPLICATOR_LISTEN" in message) == (FindingState.FAILED, True)


async def test_a_program_that_says_nothing_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        state, message = await of_address(f"127.0.0.1:{silent.getsockname()[1]}")
    assert (state, "another program" in message) == (FindingState.FAILED, True)


async def test_an_address_of_another_machine_is_told() -> None:
    state, message = await of_address("192.0.2.1:8080")
    assert (state, "no address of this machine" in message) == (FindingState.FAILED, True)
    state, message = await of_address("absent.invalid:8080")
    assert (state, "no address of this machine" in message) == (FindingState.FAILED, True)


async def test_beside_a_running_replicator_its_address_and_its_queue_are_no_failures(pushed: House) -> None:
    rules = pushed.rules(RULE)
    async with running("serve", "--config", rules, cwd=pushed.directory) as serving:
        lines = await checked(pushed, rules, 0, REPLICATOR_LISTEN=serving.address)
        found = told(lines, "ok")
        assert "already runs here, and is ready" in found["listen"]
        assert "in use by the running replicator" in found["queue"]
        # It was disturbed in nothing.
        assert not serving.said("webhook refused")
        assert (await serving.stop()) == 0


async def test_a_running_replicator_that_is_not_ready_is_told_with_its_reason(pushed: House) -> None:
    rules = pushed.rules(RULE)
    with RedisServer(pushed.directory / "r") as server:
        settings = {"REPLICATOR_REDIS_URL": server.url}
        async with running("serve", "--config", rules, cwd=pushed.directory, settings=settings) as serving:
            server.kill()
            found = failed(await checked(pushed, rules, 1, REPLICATOR_LISTEN=serving.address, **settings))
            server.start()
    assert "is not ready: the queue can't accept or hand out work (ConnectionError)" in found["listen"]
    assert "does not answer" in found["redis"]


async def of_directory(directory: Path) -> tuple[FindingState, str]:
    (finding,) = await try_state_directory(directory)
    return finding.state, finding.message


async def test_a_state_directory_is_told_to_be_absent_at_rest_or_in_use_and_is_left_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    assert "created at the first start" in (await of_directory(directory))[1]
    assert not directory.exists()
    async with embedded_server(directory):
        before = content(directory)
        state, message = await of_directory(directory)
        assert state is FindingState.OK
        # Which server, and how much room it has.
        assert re.fullmatch(
            r"in use by the running replicator \(valkey \d+\.\d+\.\d+, \S+ \wB of \S+ \wB free\)", message
        )
        assert content(directory) == before
    before = content(directory)
    state, message = await of_directory(directory)
    assert (state, message.startswith("can be used (valkey ")) == (FindingState.OK, True)
    assert content(directory) == before


async def test_a_state_directory_with_a_long_path_is_found_in_use_too(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    async with embedded_server(directory):
        assert "in use by the running replicator" in (await of_directory(directory))[1]


async def test_a_state_directory_that_is_locked_by_who_does_not_answer_is_told(tmp_path: Path) -> None:
    async with embedded_server(tmp_path / "state"):
        (tmp_path / "state" / "valkey.sock").unlink()
        state, message = await of_directory(tmp_path / "state")
        assert (state, "by another replicator whose queue server is not running" in message) == (
            FindingState.FAILED,
            True,
        )
        # A lock is told of, and never taken.
        assert (await of_directory(tmp_path / "state"))[0] is FindingState.FAILED


async def test_a_full_disk_a_silent_server_and_damaged_data_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "state"
    async with embedded_server(directory) as url, await Queue.connect(url) as queue:
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        monkeypatch.setattr(state_directory, "_ANSWER_SECONDS", 0.2)
        server = int((await queue.redis.info("server"))["process_id"])
        os.kill(server, signal.SIGSTOP)
        state, message = await of_directory(directory)
        assert (state, "is running, but does not answer" in message) == (FindingState.FAILED, True)
        os.kill(server, signal.SIGCONT)
        with monkeypatch.context() as full:
            full.setattr(tempfile, "TemporaryFile", no_space)
            state, message = await of_directory(directory)
            assert (state, message.startswith("STATE_DIR is full: ")) == (FindingState.FAILED, True)
    with next((directory / "appendonlydir").glob("*.incr.aof")).open("ab") as file:
        file.write(bytes(100))
    state, message = await of_directory(directory)
    assert (state, message.startswith("the last 100 bytes of ")) == (FindingState.FAILED, True)
    next((directory / "appendonlydir").glob("*.manifest")).unlink()
    state, message = await of_directory(directory)
    assert (state, "but no manifest" in message) == (FindingState.FAILED, True)


def no_space(**_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def content(directory: Path) -> dict[str, Any]:
    return {
        path.name: path.stat().st_mtime_ns for path in sorted(directory.rglob("*")) if path.name not in (LOCK, "log")
    }


async def test_a_certificate_that_can_not_be_used_and_a_metrics_address_that_is_taken_are_told(pushed: House) -> None:
    missing = pushed.directory / "missing.pem"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"REPLICATOR_TLS_CERTIFICATE": str(missing), "REPLICATOR_METRICS_LISTEN": own}
        lines = await checked(pushed, pushed.rules(RULE), 1, **settings)
    found = failed(lines)
    assert f"{missing} can't be read" in found["webhook"]
    assert "set REPLICATOR_METRICS_LISTEN to another port" in found["listen"]
