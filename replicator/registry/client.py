"""The registries of one process: one connection pool, limits by host, a login and its tokens by registry and user."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import aiohttp

from replicator.registry.addresses import open_socket
from replicator.registry.blobs import Blobs
from replicator.registry.connector import MAX_HEADER, READ_BUFFER, ProxyConnector
from replicator.registry.errors import NotFound, ServerFailed, UnsupportedManifest, one_line
from replicator.registry.flow import NEWS_SECONDS
from replicator.registry.ladder import LoginLadder, LoginPatience
from replicator.registry.limits import HostLimits, RequestObserver, Timing
from replicator.registry.manifest import MANIFEST_TYPES, embedded, parse_manifest
from replicator.registry.manifests import Manifests, Referrers, Tags
from replicator.registry.places import Courtesy
from replicator.registry.proxies import Proxies
from replicator.registry.rate import Rates
from replicator.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

    from replicator.reference import Repository
    from replicator.registry.credentials import Access
    from replicator.registry.manifest import Descriptor, Manifest


class RemoteRepository(Manifests, Blobs, Tags, Referrers):
    """One repository of a registry: manifests, blobs, tags and referrers (OCI distribution specification 1.1)."""

    async def get_child(self, child: Descriptor, index: str) -> Manifest:
        """Read a manifest that the index with the digest ``index`` names, or take it from the index if that embeds it.

        Raises:
            NotFound: there is no such manifest.
            UnsupportedManifest: it is a blob, as in build caches that BuildKit exports as an index.
            RegistryError: any other answer, or none.
        """
        if child.is_blob:
            raise self._lists_blobs(child, index)
        content, _ = embedded(child)
        # The manifest's own word on its type counts, as if it were read. What can't be parsed is read: for the error.
        for media_type in (child.media_type, "") if content is not None else ():
            with contextlib.suppress(ValueError):
                return parse_manifest(content or b"", media_type, child.digest)
        try:
            return await self.get_manifest(child.digest)
        except (NotFound, ServerFailed) as error:
            # Distribution fails with 500 if it is asked for a blob as a manifest.
            if child.media_type not in MANIFEST_TYPES and await self.has_blob(child.digest):
                raise self._lists_blobs(child, index) from error
            raise

    def _lists_blobs(self, child: Descriptor, index: str) -> UnsupportedManifest:
        kind = one_line(child.media_type, 100) or "of no type"
        return UnsupportedManifest(
            f"the index {index} lists blobs, not manifests, as BuildKit's old caches do: {child.digest} is {kind}",
            "export the cache with image-manifest=true,oci-mediatypes=true, or leave its tag out in the rule",
        ).at(self.repository.registry)


_STEPS_BESIDE_PUSHES = 4
"""Comparisons of a backfill or a reconcile at once while pushes are under way in the same process."""


class Registries:
    """Repositories that share connections, limits and logins; an asynchronous context manager.

    Args:
        access: returns the address and the login for a repository.
        user_agent: ``User-Agent`` of all requests.
        timing: deadlines and attempts.
        in_flight: requests and transfers in flight by host; fewer while it asks for that.
        streams: bodies in flight to a host at most; fewer where more do not make the whole faster.
        rates: bytes and requests a second by host; None for no limit.
        observer: sees every request.
        proxies: for every access that has none of its own.
        patience: with refused logins.

    Attributes:
        proxies: the same.
        courtesy: limits bulk of this process while its pushes are under way.
    """

    def __init__(
        self,
        access: Callable[[Repository], Access],
        *,
        user_agent: str = "replicator",
        timing: Timing | None = None,
        in_flight: int = 32,
        streams: int = 24,
        rates: Rates | None = None,
        observer: RequestObserver | None = None,
        proxies: Proxies | None = None,
        patience: LoginPatience | None = None,
    ) -> None:
        self._access = access
        self._patience = patience or LoginPatience()
        self.proxies = proxies or Proxies()
        self._user_agent = user_agent
        self._timing = timing or Timing()
        self._in_flight = in_flight
        self._streams = streams
        self.rates = rates or Rates()
        self._observer = observer or RequestObserver()
        self._session: aiohttp.ClientSession | None = None
        self._limits: dict[str, HostLimits] = {}
        self._pushing = asyncio.Event()
        self.courtesy = Courtesy(_STEPS_BESIDE_PUSHES)
        self._transports: dict[tuple[str, Access, bool], Transport] = {}
        self._ladders: dict[Hashable, LoginLadder] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # `HostLimits` bounds what is in flight at each host, so the pool needs no limit.
            connector=ProxyConnector(
                certified=self._observer.certified,
                limit=0,
                ttl_dns_cache=30,
                keepalive_timeout=30,
                socket_factory=open_socket,
            ),
            # A presigned Location breaks if it is quoted again.
            requote_redirect_url=False,
            # The bytes that count are those that were hashed: never decompressed ones.
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            headers={"User-Agent": self._user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def renew(self, access: Callable[[Repository], Access], proxies: Proxies | None = None) -> None:
        """Use other addresses and logins from now on, and other proxies if given; repositories given out keep theirs.

        All tokens are dropped, even if an access is unchanged: its CA file or helper may hold something else by now.
        """
        self._access, self.proxies = access, proxies or self.proxies
        self._transports.clear()

    def source(self, repository: Repository) -> RemoteRepository:
        """Return a repository to read from."""
        access = self._access(repository)
        return RemoteRepository(repository, self._transport(repository.registry, access), "pull", access.manifest_agent)

    def destination(self, repository: Repository) -> RemoteRepository:
        """Return a repository to write to."""
        return RemoteRepository(repository, self.transport(repository), "pull,push")

    def anonymous(self, repository: Repository, *, source: bool) -> RemoteRepository:
        """Return a repository to read from as anyone can, with neither the login nor its tokens.

        A request is sent once: nothing depends on the answer. It counts in the limits of the host like any other.

        Args:
            repository: the repository.
            source: whether it is a source, where a pull may have to count as none.
        """
        agent = self._access(repository).manifest_agent if source else None
        return RemoteRepository(repository, self.transport(repository, anonymous=True), "pull", agent)

    async def is_public(self, repository: Repository) -> bool | None:
        """Tell whether anyone may pull from a destination, if there is another way to know than to try it.

        What is written without a login is read without one; and the access may have a way to ask.
        """
        access = self._access(repository)
        types = access.types
        if types is None:
            return True if access.is_anonymous else None
        authorizer = self.transport(repository).authorizer
        if authorizer.service is None:
            # Nothing was asked yet: the challenge may name the instance.
            await self.destination(repository).answers()
        return await types.is_public(repository.name, authorizer.service)

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

    def note_refusal(self, registry: str, reason: str) -> None:
        """Tell the observer of a copy that a registry refuses for good."""
        self._observer.refused(registry, reason)

    def is_anonymous(self, repository: Repository) -> bool:
        """Tell whether there is no login for a repository."""
        return self._access(repository).is_anonymous

    def waiting(self, registry: str | None = None, *, bulk: bool) -> int:
        """Return how many requests and bodies wait for a place at a registry, or are held back on their way to it.

        Args:
            registry: the host the rules name; None for all registries.
            bulk: those of backfills and reconciles, instead of those of pushes.
        """
        chosen = [limits for host, limits in self._limits.items() if registry in (None, host)]
        return sum(
            limits.waiting(bulk=bulk) + limits.streams.waiting(bulk=bulk) + limits.line.held(bulk=bulk)
            for limits in chosen
        )

    async def pushes(self) -> dict[str, tuple[int, bool]]:
        """Wait until bodies of pushes are under way, and `NEWS_SECONDS` more; return their `Line.news` by host.

        On a fast line they are over by then, and other processes need not hold anything back for them.
        """
        await self._pushing.wait()
        await asyncio.sleep(NEWS_SECONDS)
        news = {host: told for host, limits in self._limits.items() if (told := limits.line.news()) is not None}
        if not news:
            self._pushing.clear()
        return news

    def note_pushes_elsewhere(self, host: str, size: int, goes_on: bool) -> None:
        """Hold back bulk at a host for the pushes of another process; see `Line.note_elsewhere`."""
        if (limits := self._limits.get(host)) is not None:
            limits.line.note_elsewhere(size, goes_on=goes_on)

    def _limits_of(self, host: str) -> HostLimits:
        if host not in self._limits:
            upload, requests = self.rates.upload(host), self.rates.requests(host)
            limits = self._limits[host] = HostLimits(
                self._in_flight,
                host,
                self._observer.silent,
                streams=self._streams,
                upload=upload,
                requests=requests,
            )
            loop = asyncio.get_running_loop()
            # A thread may begin a body too.
            limits.line.on_push = lambda: loop.call_soon_threadsafe(self._pushing.set)
        return self._limits[host]

    def _ladder(self, registry: str, access: Access) -> LoginLadder:
        # By the login alone: what is known of it outlives a reload, and holds for every way to the registry.
        login = (registry, access.username, access.password, access.logins)
        if login not in self._ladders:
            self._ladders[login] = LoginLadder(registry, access, self._patience)
        return self._ladders[login]

    def transport(self, repository: Repository, *, anonymous: bool = False) -> Transport:
        """Return the transport to a repository's registry under the login for that repository, e.g. for REST APIs.

        Args:
            repository: the repository.
            anonymous: without that login, for requests that are sent once.
        """
        access = self._access(repository)
        access = access.for_anyone() if anonymous else access
        return self._transport(repository.registry, access, anonymous=anonymous)

    def _transport(self, registry: str, access: Access, *, anonymous: bool = False) -> Transport:
        assert self._session is not None, "used outside of its context"  # noqa: S101 - a programming error
        key = (registry, access, anonymous)
        if (transport := self._transports.get(key)) is None:
            limits = self._limits_of(registry)
            access = replace(access, proxies=access.proxies or self.proxies)
            ladder = self._ladder(registry, access)
            timing = replace(self._timing, attempts=1) if anonymous else self._timing
            observer = self._observer
            transport = Transport(registry, access, self._session, limits, timing, observer, ladder)
            transport.authorizer.on_service = functools.partial(observer.challenged, registry)
            self._transports[key] = transport
        return transport
