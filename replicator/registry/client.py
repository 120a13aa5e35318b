"""The registries of one process: one connection pool, one set of limits a host, one login a registry and user.

One repository of a registry, whole: manifests, blobs, tags, referrers (OCI distribution specification 1.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import aiohttp

from replicator.registry.blobs import Blobs
from replicator.registry.connection import open_socket
from replicator.registry.limits import HostLimits, Timing, Unobserved
from replicator.registry.manifests import Manifests
from replicator.registry.requests import Referrers, Tags
from replicator.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from replicator.reference import Repository
    from replicator.registry.credentials import Access
    from replicator.registry.limits import RequestObserver


class RemoteRepository(Manifests, Blobs, Tags, Referrers):
    """Requests about one repository."""


_READ_BUFFER = 256 * 1024
"""Bytes of an answer that aiohttp buffers before it stops reading (three times that at the most): the chunks of a copy.

Twice as many make a copy no faster, and each blob under way takes 2 MB more.
"""


class Registries:
    """Gives out repositories, and shares all that can be shared between them. Use it as a context manager.

    Args:
        access: says how to reach a repository's registry, and as whom.
        user_agent: what is sent as ``User-Agent``.
        timing: deadlines and tries.
        in_flight: requests and transfers under way at once, a host; fewer while it complains.
        observer: told of every request.
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
        self._observer = observer or Unobserved()
        self._session: aiohttp.ClientSession | None = None
        self._limits: dict[str, HostLimits] = {}
        self._transports: dict[tuple[str, Access], Transport] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # The limits are ours, a host; and a Location must go out as it came in.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=30, socket_factory=open_socket),
            requote_redirect_url=False,
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
        """Reach registries in another way from now on, and log in anew; what was given out goes on as it began.

        Also where the way is the same: what its files and helpers hold may be another.
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
        """Have a repository created that a push was refused for, where its access says by whom.

        Returns:
            Whether the push is worth another try; tokens from before are then forgotten.

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
        """Tell whether somebody creates a repository that a push is refused for."""
        return self._access(repository).creator is not None

    def transport(self, repository: Repository) -> Transport:
        """Return the way to a repository's registry under the login for that repository, e.g. for its REST API."""
        assert self._session is not None, "used outside of its context"  # noqa: S101 - a programming error
        access = self._access(repository)
        key = (repository.registry, access)
        if key not in self._transports:
            limits = self._limits.setdefault(repository.registry, HostLimits(self._in_flight))
            self._transports[key] = Transport(
                repository.registry, access, self._session, limits, self._timing, self._observer
            )
        return self._transports[key]
