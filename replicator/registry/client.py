"""The registries of one process: one connection pool, limits by host, a login and its tokens by registry and user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import aiohttp

from replicator.registry.blobs import Blobs
from replicator.registry.connection import open_socket
from replicator.registry.limits import HostLimits, RequestObserver, Timing
from replicator.registry.manifests import Manifests
from replicator.registry.requests import Referrers, Tags
from replicator.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from replicator.reference import Repository
    from replicator.registry.credentials import Access


class RemoteRepository(Manifests, Blobs, Tags, Referrers):
    """One repository of a registry: manifests, blobs, tags and referrers (OCI distribution specification 1.1)."""


_READ_BUFFER = 256 * 1024
"""Bytes of an answer that aiohttp buffers before it stops reading (at most three times as many): a copy's chunk size.

Twice as many make a copy no faster, and cost 2 MB more for each blob in flight.
"""


class Registries:
    """Repositories that share connections, limits and logins; an asynchronous context manager.

    Args:
        access: returns the address and the login for a repository.
        user_agent: ``User-Agent`` of all requests.
        timing: deadlines and attempts.
        in_flight: requests and transfers in flight by host; fewer while it asks for that.
        observer: sees every request.
    """

    def __init__(
        self,
        access: Callable[[Repository], Access],
        *,
        user_agent: str = "replicator",
        timing: Timing | None = None,
        in_flight: int = 32,
        observer: RequestObserver | None = None,
    ) -> None:
        self._access = access
        self._user_agent = user_agent
        self._timing = timing or Timing()
        self._in_flight = in_flight
        self._observer = observer or RequestObserver()
        self._session: aiohttp.ClientSession | None = None
        self._limits: dict[str, HostLimits] = {}
        self._transports: dict[tuple[str, Access], Transport] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # `HostLimits` bounds what is in flight at each host, so the pool needs no limit.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=30, socket_factory=open_socket),
            # A presigned Location breaks if it is quoted again.
            requote_redirect_url=False,
            # The bytes that count are those that were hashed: never decompressed ones.
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            headers={"User-Agent": self._user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def renew(self, access: Callable[[Repository], Access]) -> None:
        """Use other addresses and logins from now on; repositories that were given out keep theirs.

        All tokens are dropped, even if an access is unchanged: its CA file or helper may hold something else by now.
        """
        self._access = access
        self._transports.clear()

    def source(self, repository: Repository) -> RemoteRepository:
        """Return a repository to read from."""
        agent = self._access(repository).manifest_agent
        return RemoteRepository(repository, self.transport(repository), "pull", agent)

    def destination(self, repository: Repository) -> RemoteRepository:
        """Return a repository to write to."""
        return RemoteRepository(repository, self.transport(repository), "pull,push")

    async def create(self, repository: Repository) -> bool:
        """Create a repository that a push was refused for, if its access has a creator.

        Returns:
            Whether the push is worth another attempt; earlier tokens are then dropped.

        Raises:
            RegistryError: it could not be created.
        """
        creator = self._access(repository).creator
        if creator is None:
            return False
        authorizer = self.transport(repository).authorizer
        helps = await creator.create(repository.name, authorizer.service)
        if helps:
            authorizer.forget(repository.name)
        return helps

    def creates(self, repository: Repository) -> bool:
        """Tell whether the access of a repository has a creator."""
        return self._access(repository).creator is not None

    def transport(self, repository: Repository) -> Transport:
        """Return the transport to a repository's registry under the login for that repository, e.g. for REST APIs."""
        assert self._session is not None, "used outside of its context"  # noqa: S101 - a programming error
        access = self._access(repository)
        key = (repository.registry, access)
        if key not in self._transports:
            limits = self._limits.setdefault(repository.registry, HostLimits(self._in_flight))
            self._transports[key] = Transport(
                repository.registry, access, self._session, limits, self._timing, self._observer
            )
        return self._transports[key]
