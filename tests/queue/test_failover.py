"""What changes about a Redis while the queue runs: its master behind an address, its login, its certificates."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest
import trustme
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, ResponseError

from replicator.queue import Job, Lane, Queue
from replicator.queue.connection import is_demoted, open_redis
from tests.queue.conftest import Recorder, accepted, eventually, idle, working
from tests.queue.servers import CuttingProxy, RedisServer, Replicated, ask, eventually_says, free_port

if TYPE_CHECKING:
    from pathlib import Path

A, B = "r.example/a:1", "r.example/b:1"


async def test_behind_an_address_whose_old_connections_stay_open_the_next_command_reaches_the_new_master(
    short_dir: Path, handler: Recorder
) -> None:
    with Replicated(short_dir / "managed") as servers:
        async with (
            CuttingProxy(free_port(), servers.master.socket) as address,
            await Queue.connect(address.url, replicas=0) as queue,
            working(queue, handler),
        ):
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            await handler.started(1)
            await idle(queue)
            await asyncio.to_thread(servers.promote)
            address.target = servers.replicas[0].socket
            await eventually(lambda: accepted(queue, B), timeout=30)
            await handler.started(2)
            await idle(queue)
            assert address.cuts == 0
            assert B not in ask(servers.replicas[0], f"HKEYS {queue.prefix}:gen")


async def test_a_command_that_meets_the_former_master_is_carried_out_by_the_new_one(short_dir: Path) -> None:
    with Replicated(short_dir / "one") as servers:
        async with (
            CuttingProxy(free_port(), servers.master.socket) as address,
            await Queue.connect(address.url, replicas=0, deadline=20) as queue,
        ):
            await asyncio.to_thread(servers.promote)
            await asyncio.to_thread(eventually_says, servers.master, "INFO replication", "role:slave")
            address.target = servers.replicas[0].socket
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            assert A in ask(servers.replicas[0], f"HKEYS {queue.prefix}:gen")


@pytest.mark.parametrize(
    ("error", "demoted"),
    [
        (ReadOnlyError("You can't write against a read only replica."), True),
        (BusyLoadingError("Redis is loading the dataset in memory"), True),
        (ResponseError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."), True),
        (ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"), True),
        (ResponseError("ERR Error running script: @user_script:1: READONLY You can't write"), True),
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), False),
        (ResponseError("ERR unknown command"), False),
    ],
)
def test_the_answers_of_a_server_that_is_no_master_are_known(error: Exception, *, demoted: bool) -> None:
    assert is_demoted(error) == demoted


async def test_another_password_is_taken_over_by_a_queue_that_runs(short_dir: Path, handler: Recorder) -> None:
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--requirepass", "one")
    with RedisServer(short_dir / "login", *options) as server:
        async with await Queue.connect(f"redis://:one@127.0.0.1:{port}") as queue, working(queue, handler):
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            await handler.started(1)
            ask(server, "AUTH one\r\nCONFIG SET requirepass two\r\nCLIENT KILL TYPE normal")
            queue.renew(open_redis(f"redis://:two@127.0.0.1:{port}"))
            await eventually(lambda: accepted(queue, B))
            await handler.started(2)
            await idle(queue)


async def test_a_renewed_authority_and_client_certificate_are_read_at_the_next_connection(short_dir: Path) -> None:
    folder = short_dir / "renewed"
    folder.mkdir()
    port, files = free_port(), {name: folder / f"{name}.pem" for name in ("ca", "server", "client")}

    def issue() -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(files["ca"]))
        for name in ("server", "client"):
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(files[name]))

    issue()
    options: tuple[str, ...] = ("--tls-port", str(port), "--bind", "127.0.0.1", "--tls-ca-cert-file", str(files["ca"]))
    options += ("--tls-cert-file", str(files["server"]), "--tls-key-file", str(files["server"]))
    with RedisServer(folder / "r", *options, program=shutil.which("redis-server")) as server:
        client = f"ssl_certfile={files['client']}&ssl_keyfile={files['client']}"
        url = f"rediss://localhost:{port}?ssl_ca_certs={files['ca']}&{client}"
        async with await Queue.connect(url) as queue:
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            server.stop()
            issue()
            server.start()
            await eventually(lambda: accepted(queue, B))
