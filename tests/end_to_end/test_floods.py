"""What a stranger without a token sends does not fill the memory of ``serve``, nor keep an event out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.harbor.test_events import default
from tests.running import PROGRAM, TOKEN, Serving, running

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = """
auth:
  harbor.example.com: {anonymous: true}
  registry.example.com: {username: u, password: p, endpoint: 192.0.2.1}
images:
  harbor.example.com/team/**: registry.example.com/team/{flat}
"""
MOST_MIB = 150
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
HOOK = b"POST /webhooks/harbor HTTP/1.1\r\nHost: x\r\n"
PIPELINES = (
    (2, HEALTH * 1000, HEALTH * 1000, True),
    (2, HEALTH * 1000, HEALTH * 1000, False),
)
CROWD = (
    (1500, b"", b"", False),
    (100, b"GET /metrics HTTP/1.1\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n", False),
    (300, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100, b"", False),
    (300, b"GET / HTTP/1.1\r\nX: " + b"a" * 15_000, b"", False),
    (50, b"GET / HTTP/1.1\r\n", b"a:\r\n" * 8192, False),
    (50, HOOK + b"Content-Length: 10000000000\r\n\r\n", b"a" * 65_536, False),
    (50, HOOK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"a" * 65_536, False),
    (50, HOOK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 10_000, False),
)
"""Each: how many connections at once, what they send first and then again and again, whether they read answers."""


@pytest.fixture
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def one_sender(address: tuple[str, int], first: bytes, again: bytes, reads: bool) -> None:
    """Send for ever, over a new connection whenever the server closes one."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError), socket.socket() as sender:
            sender.setblocking(False)
            await loop.sock_connect(sender, address)
            await loop.sock_sendall(sender, first)
            while again or not await loop.sock_recv(sender, 65_536):
                await loop.sock_sendall(sender, again)
                while reads and await loop.sock_recv(sender, 65_536):
                    break
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)


def peak_mib(serving: Serving) -> int:
    """The most memory that it has had."""
    status = Path(f"/proc/{serving.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


@pytest.mark.usefixtures("_many_files")
async def test_the_memory_stays_small_and_events_are_taken_whatever_a_stranger_sends(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    settings = {"REPLICATOR_STATUS_TOKEN": "password"}
    async with (
        running("serve", "--config", rules, cwd=tmp_path, settings=settings, program=PROGRAM) as serving,
        aiohttp.ClientSession(headers={"Authorization": TOKEN}) as harbor,
    ):
        host, _, port = serving.address.rpartition(":")
        for attacks in (PIPELINES, CROWD):
            senders = [
                asyncio.create_task(one_sender((host, int(port)), first, again, reads))
                for number, first, again, reads in attacks
                for _ in range(number)
            ]
            await asyncio.sleep(1)
            # Harbor's own connection is kept, and closed in favour of nobody.
            async with asyncio.timeout(30), harbor.post(f"{serving.url}/webhooks/harbor", json=default()) as answer:
                assert answer.status == 202
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
            assert peak_mib(serving) < MOST_MIB
        assert not [line for line in serving.lines if "exception" in line]
