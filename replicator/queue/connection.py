"""The Redis client for a URL, in all the ways people run Redis.

    redis://[user[:password]@]host[:port][/db]
    rediss://…                                    TLS; the certificate must be valid for the host's name
    unix:///path/to/socket[?db=N]
    redis+sentinel://[user[:password]@]host[:port][,host[:port]…]/service[/db]      rediss+sentinel:// with TLS

User and password are percent-decoded. Options after ``?``: ``db``, ``ssl_ca_certs``, ``ssl_certfile`` and
``ssl_keyfile`` (paths), ``sentinel_username`` and ``sentinel_password``. The client is built here and not by arq's
``RedisSettings``, which takes passwords undecoded, checks no host name and drops options for Sentinel.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from arq.connections import ArqRedis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

from replicator.errors import ConfigError, Problem
from replicator.networks import lenient
from replicator.queue.records import dump_json, load_json

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SOURCE = "Redis URL"
FORMS = "redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://"
CONNECT_TIMEOUT = 3.0
SOCKET_TIMEOUT = 5.0
"""Seconds for one answer; above every blocking read and every script's time."""

_KEEPALIVE: dict[str, Any] = {
    "socket_keepalive": True,
    # An idle connection that a firewall has dropped is detected within a minute (tcp(7)).
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    },
}
_ONCE = Retry(NoBackoff(), 0)
"""redis-py must not retry by itself, as it does from version 6 on: every caller has a deadline and a back-off of its
own, and a sentinel that is away must leave time for the next one."""
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})


@dataclass(frozen=True, slots=True)
class RedisHandle:
    """A client, and what must be closed with it.

    Attributes:
        redis: the client; it serialises jobs as JSON.
        where: its address for messages, without user, password and options.
        sentinels: clients of the sentinels through which it finds its server.
    """

    redis: ArqRedis
    where: str
    sentinels: tuple[Any, ...] = ()

    async def close(self) -> None:
        """Close every connection."""
        await self.redis.connection_pool.disconnect()
        for sentinel in self.sentinels:
            await sentinel.aclose()


def _refuse(message: str) -> ConfigError:
    return ConfigError(SOURCE, [Problem("", message)])


def open_redis(url: str) -> RedisHandle:
    """Build the client for ``url``; nothing is connected yet.

    Raises:
        ConfigError: the URL is not of one of the forms; the message never holds the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refuse(f"it can't be parsed; it has the form {FORMS}") from None
    scheme = parts.scheme.lower()
    if "cluster" in scheme:
        raise _refuse("Redis Cluster is not supported; give the URL of a single server, or of its sentinels")
    if scheme not in {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"}:
        raise _refuse(f"it must begin with {FORMS}")
    tls = scheme.startswith("rediss")
    options = _options(parts, tls=tls, sentinel=scheme.endswith("sentinel"))
    common = _common(parts, options, tls=tls)
    if scheme == "unix":
        path = unquote(parts.path)
        if not path or _hosts(parts):
            raise _refuse("unix:// is followed by an absolute path, so with three slashes: unix:///run/redis.sock")
        pool = ConnectionPool(connection_class=UnixDomainSocketConnection, path=path, db=_db(options, ""), **common)
        return RedisHandle(_client(pool), f"unix://{path}")
    if scheme.endswith("sentinel"):
        return _open_sentinel(parts, options, common, tls=tls)
    return _open_tcp(parts, options, common, tls=tls)


def _open_tcp(parts: SplitResult, options: dict[str, str], common: dict[str, Any], *, tls: bool) -> RedisHandle:
    hosts = _addresses(parts, 6379)
    if len(hosts) != 1:
        raise _refuse("it needs one host; several are for redis+sentinel:// (Redis Cluster is not supported)")
    (host, port), path = hosts[0], unquote(parts.path).strip("/")
    pool = ConnectionPool(
        connection_class=_TlsConnection if tls else Connection,
        host=host,
        port=port,
        db=_db(options, path),
        **_KEEPALIVE,
        **common,
    )
    return RedisHandle(_client(pool), f"{parts.scheme}://{host}:{port}")


def _open_sentinel(parts: SplitResult, options: dict[str, str], common: dict[str, Any], *, tls: bool) -> RedisHandle:
    hosts = _addresses(parts, 26379)
    service, _, db = unquote(parts.path).strip("/").partition("/")
    if not service:
        raise _refuse("it needs the name of the service: redis+sentinel://host:26379/mymaster")
    ssl = {"ssl": True, **{name: common[name] for name in common if name.startswith("ssl_")}} if tls else {}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        hosts,
        sentinel_kwargs={
            "username": options.get("sentinel_username"),
            "password": options.get("sentinel_password"),
            "socket_timeout": CONNECT_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "retry": _ONCE,
            **_KEEPALIVE,
            **ssl,
        },
    )
    if tls:
        common["connection_class"] = _TlsMasterConnection
        for client in sentinel.sentinels:
            client.connection_pool.connection_class = _TlsConnection
    master = sentinel.master_for(service, db=_db(options, db), ssl=tls, **_KEEPALIVE, **common)
    addresses = ",".join(f"{host}:{port}" for host, port in hosts)
    return RedisHandle(
        _client(master.connection_pool), f"{parts.scheme}://{addresses}/{service}", (*sentinel.sentinels,)
    )


class _TlsConnection(SSLConnection):
    """TLS that accepts certificates of an authority in the URL as curl and Go do."""

    def _connection_arguments(self) -> Any:
        # Only here: the files of the URL are read at the first connection.
        if self.ssl_context.ca_certs:
            lenient(self.ssl_context.get())
        return super()._connection_arguments()


class _TlsMasterConnection(_TlsConnection, SentinelManagedSSLConnection):
    """The same, to the server that sentinels name."""


def _client(pool: Any) -> ArqRedis:
    return ArqRedis(pool_or_conn=pool, job_serializer=dump_json, job_deserializer=load_json)


def _common(parts: SplitResult, options: dict[str, str], *, tls: bool) -> dict[str, Any]:
    """Connection arguments that every form has."""
    userinfo, at, _ = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    arguments: dict[str, Any] = {
        "username": unquote(username) or None,
        "password": unquote(password) or None,
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": _ONCE,
        "client_name": "replicator",
    }
    if at and not arguments["password"]:
        raise _refuse("it has a user but no password; write redis://user:password@host, or redis://:password@host")
    if tls:
        arguments |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        arguments |= {name: options[name] for name in _TLS_OPTIONS & options.keys()}
    return arguments


def _options(parts: SplitResult, *, tls: bool, sentinel: bool) -> dict[str, str]:
    allowed = {"db"} | (_TLS_OPTIONS if tls else set()) | (_SENTINEL_OPTIONS if sentinel else set())
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - allowed)
    if unknown:
        raise _refuse(f"unknown option {', '.join(unknown)}; known here: {', '.join(sorted(allowed))}")
    return options


def _db(options: dict[str, str], path: str) -> int:
    text = options.get("db", path) or "0"
    if not text.isdecimal():
        raise _refuse(f"the database must be a number, not {text!r}")
    return int(text)


def _hosts(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _addresses(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Split ``host:port,host`` (by hand: ``urlsplit`` knows only one) into pairs."""
    addresses = []
    for text in _hosts(parts).split(","):
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, str(default_port)
        host = unquote(host.strip("[]"))
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _refuse(f"{text!r} is not a host or host:port")
        addresses.append((host, int(port)))
    return addresses
