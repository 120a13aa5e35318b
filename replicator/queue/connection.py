"""The Redis client for a URL, in all the ways people run Redis.

    redis://[user[:password]@]host[:port][/db]
    rediss://…                                    TLS; the certificate must be valid for the host's name
    unix:///path/to/socket[?db=N]
    redis+sentinel://[user[:password]@]host[:port][,host[:port]…]/service[/db]      rediss+sentinel:// with TLS
    redis+cluster://[user[:password]@]host[:port][,host[:port]…]                    rediss+cluster:// with TLS

User and password are percent-decoded. Options after ``?``: ``db``, ``ssl_ca_certs``, ``ssl_certfile`` and
``ssl_keyfile`` (paths), ``sentinel_username`` and ``sentinel_password``. The client is built here and not by arq's
``RedisSettings``, which takes passwords undecoded, checks no host name and drops options for Sentinel.

Of a Redis Cluster one node has all keys of the queue, since they share a slot. So a plain client suffices, which arq
needs anyway: it goes where the cluster says that the slot is (``MOVED``), and asks the nodes of the URL when that node
is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from arq.connections import ArqRedis
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, MasterDownError, MovedError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from replicator.errors import ConfigError, Problem
from replicator.networks import lenient
from replicator.queue.records import dump_json, load_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from urllib.parse import SplitResult

SOURCE = "Redis URL"
FORMS = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// (with TLS rediss+sentinel://, …)"
_SCHEMES = re.compile(r"unix|rediss?(\+sentinel|\+cluster)?")
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
_PROTOCOL: dict[str, Any] = {"protocol": 2}
"""RESP2: the default of newer versions of redis-py begins with HELLO, which not every proxy knows."""
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_REDIRECTS = 3
"""Times that one command follows ``MOVED``."""
_MOVED = re.compile(r"MOVED \d+ (\S*):(\d+)")
_DEMOTED = ("READONLY", "LOADING", "MASTERDOWN", "UNBLOCKED", "WAIT cannot be used with replica")


def is_demoted(error: Exception) -> bool:
    """Tell whether a server answers that it is not, or not yet, the master: another one may be by now."""
    return isinstance(error, ReadOnlyError | BusyLoadingError | MasterDownError) or (
        isinstance(error, RedisError) and any(words in str(error) for words in _DEMOTED)
    )


@contextlib.contextmanager
def closed_is_away() -> Iterator[None]:
    """Raise redis-py's error for a connection that was closed just before a command was sent.

    uvloop has an error of its own for that, and redis-py stumbles over the streams that another task has put away.
    """
    try:
        yield
    except AttributeError as error:
        if error.obj is not None:
            raise
        raise RedisConnectionError("the connection was closed meanwhile") from error
    except RuntimeError as error:
        if "the handler is closed" not in str(error):
            raise
        raise RedisConnectionError(str(error)) from error


class _Parser(_AsyncHiredisParser):
    """redis-py's own parser. Its check for unrequested data takes a third of the time of a short command."""

    async def can_read(self) -> bool:
        if not self._connected:
            raise OSError("not connected")
        reader, stream = cast("Any", self._reader), cast("Any", self._stream)
        # Only the private attribute tells without waiting whether there is data. A reset leaves an exception instead.
        return bool(stream.at_eof() or stream.exception() or reader.has_data() or stream._buffer)  # noqa: SLF001

    can_read_destructive = can_read  # its name before redis-py 8


class QueueClient(ArqRedis):
    """The client of one installation; it serialises jobs as JSON.

    A demoted master keeps its connections open and answers READONLY to them. Behind a name or an address that leads to
    the master, only new connections reach the next one, so all are dropped at such an answer.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        super().__init__(pool_or_conn=pool, job_serializer=dump_json, job_deserializer=load_json)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command, on another node of a cluster if that has the keys."""
        for _ in range(_REDIRECTS):
            try:
                with closed_is_away():
                    return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py leaves it without types
            except RedisError as error:
                if not await self.leaves(error):
                    raise
        with closed_is_away():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py leaves it without types

    async def leaves(self, error: Exception) -> bool:
        """Drop the connections if an answer says that they lead to the wrong server.

        Returns:
            Whether the answer names the right one, so that the command should be repeated at once.
        """
        pool = self.connection_pool
        nodes: _Nodes | None = pool.connection_kwargs.get("nodes")
        moved = nodes is not None and nodes.follow(error)
        if moved or is_demoted(error):
            with contextlib.suppress(RedisError, OSError):
                await pool.disconnect()
        return moved


@dataclass(slots=True)
class RedisHandle:
    """A client, and the resources to close with it.

    Attributes:
        redis: the client.
        where: its address for messages, without user, password and options.
        url: what it was made from.
        sentinels: clients of the sentinels through which it finds its server.
    """

    redis: QueueClient
    where: str
    url: str = field(repr=False)
    sentinels: tuple[Any, ...] = ()
    _closing: set[asyncio.Task[None]] = field(default_factory=set, repr=False)

    def become(self, other: RedisHandle) -> None:
        """Use the connections of another handle, which is not used any further, from the next command on.

        Commands under way fail like those of a connection that was cut, and are repeated.
        """
        former, sentinels = self.redis.connection_pool, self.sentinels
        self.redis.connection_pool = other.redis.connection_pool
        self.where, self.url, self.sentinels = other.where, other.url, other.sentinels
        closing = asyncio.create_task(_disconnect(former, sentinels))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*self._closing)
        await _disconnect(self.redis.connection_pool, self.sentinels)


async def _disconnect(pool: ConnectionPool, sentinels: Sequence[Any]) -> None:
    with contextlib.suppress(RedisError, OSError):
        await pool.disconnect()
    for sentinel in sentinels:
        with contextlib.suppress(RedisError, OSError):
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
    if not _SCHEMES.fullmatch(scheme := parts.scheme.lower()):
        raise _refuse(f"it must begin with {FORMS}")
    tls = scheme.startswith("rediss")
    options = _options(parts, tls=tls, sentinel=scheme.endswith("sentinel"))
    common = _common(parts, options, tls=tls)
    if scheme == "unix":
        if not (path := unquote(parts.path)) or parts.netloc.rpartition("@")[2]:
            raise _refuse("unix:// is followed by an absolute path, so with three slashes: unix:///run/redis.sock")
        pool = ConnectionPool(connection_class=UnixDomainSocketConnection, path=path, db=_db(options, ""), **common)
        return RedisHandle(QueueClient(pool), f"unix://{path}", url)
    if scheme.endswith("sentinel"):
        return _open_sentinel(url, parts, options, common, tls=tls)
    if scheme.endswith("cluster"):
        return _open_cluster(url, parts, options, common, tls=tls)
    return _open_tcp(url, parts, options, common, tls=tls)


def _open_tcp(
    url: str, parts: SplitResult, options: dict[str, str], common: dict[str, Any], *, tls: bool
) -> RedisHandle:
    hosts = _addresses(parts, 6379)
    if len(hosts) != 1:
        raise _refuse("it needs one host; several are for redis+sentinel:// and redis+cluster://")
    (host, port), path = hosts[0], unquote(parts.path).strip("/")
    pool = ConnectionPool(
        connection_class=_TlsConnection if tls else Connection,
        host=host,
        port=port,
        db=_db(options, path),
        **_KEEPALIVE,
        **common,
    )
    return RedisHandle(QueueClient(pool), f"{parts.scheme}://{host}:{port}", url)


def _open_cluster(
    url: str, parts: SplitResult, options: dict[str, str], common: dict[str, Any], *, tls: bool
) -> RedisHandle:
    hosts = _addresses(parts, 6379)
    if _db(options, unquote(parts.path).strip("/")) != 0:
        raise _refuse("a Redis Cluster has only the database 0")
    pool = ConnectionPool(
        connection_class=_TlsNodeConnection if tls else _NodeConnection, nodes=_Nodes(hosts), **_KEEPALIVE, **common
    )
    addresses = ",".join(f"{host}:{port}" for host, port in hosts)
    return RedisHandle(QueueClient(pool), f"{parts.scheme}://{addresses}", url)


def _open_sentinel(
    url: str, parts: SplitResult, options: dict[str, str], common: dict[str, Any], *, tls: bool
) -> RedisHandle:
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
            **_PROTOCOL,
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
    where = f"{parts.scheme}://{addresses}/{service}"
    return RedisHandle(QueueClient(master.connection_pool), where, url, (*sentinel.sentinels,))


class _Nodes:
    """The node of a cluster that has the queue's keys, as far as that is known.

    Args:
        seeds: addresses of nodes, any of which names it.
    """

    def __init__(self, seeds: Sequence[tuple[str, int]]) -> None:
        self._seeds = seeds
        self._failures = 0
        self.current = seeds[0]

    def failed(self, address: tuple[str, int]) -> None:
        """Ask the next one of the URL: this node can't be connected to."""
        if address == self.current:
            self._failures += 1
            self.current = self._seeds[self._failures % len(self._seeds)]

    def follow(self, error: Exception) -> bool:
        """Go where an answer says that the keys are; tell whether it says so."""
        if isinstance(error, MovedError):
            host, port = error.host, error.port
        elif (found := _MOVED.match(str(error))) is not None:
            host, port = found[1], int(found[2])
        else:
            return False
        # Without a host it is another port of the node that answered.
        self.current = (self.current[0] if host in ("", "?") else host.strip("[]"), port)
        return True


class _NodeConnection(Connection):
    """A connection to the node that has the keys now."""

    def __init__(self, *, nodes: _Nodes, **options: Any) -> None:
        super().__init__(host=nodes.current[0], port=nodes.current[1], **options)
        self._nodes = nodes

    async def _connect(self) -> None:
        address = self.host, self.port = self._nodes.current
        try:
            await super()._connect()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        except BaseException:  # a deadline too, which cancels
            self._nodes.failed(address)
            raise


class _TlsConnection(SSLConnection):
    """TLS that accepts certificates of an authority in the URL as curl and Go do."""

    def _connection_arguments(self) -> Any:
        if self.ssl_context.ca_certs or self.ssl_context.certfile:
            # The files of the URL are read for each connection, since they may have been renewed.
            self.ssl_context.context = None
        if self.ssl_context.ca_certs:
            lenient(self.ssl_context.get())
        return super()._connection_arguments()


class _TlsMasterConnection(_TlsConnection, SentinelManagedSSLConnection):
    """The same, to the server that sentinels name."""


class _TlsNodeConnection(_NodeConnection, _TlsConnection):
    """The same, to the node of a cluster that has the keys."""


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
        "parser_class": _Parser,
        **_PROTOCOL,
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
    if unknown := sorted(options.keys() - allowed):
        raise _refuse(f"unknown option {', '.join(unknown)}; known here: {', '.join(sorted(allowed))}")
    return options


def _db(options: dict[str, str], path: str) -> int:
    text = options.get("db", path) or "0"
    if not text.isdecimal():
        raise _refuse(f"the database must be a number, not {text!r}")
    return int(text)


def _addresses(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Split ``host:port,host`` (by hand: ``urlsplit`` knows only one) into pairs."""
    addresses = []
    for text in parts.netloc.rpartition("@")[2].split(","):
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, str(default_port)
        host = unquote(host.strip("[]"))
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise _refuse(f"{text!r} is not a host or host:port")
        addresses.append((host, int(port)))
    return addresses
