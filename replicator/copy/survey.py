"""Search for blobs in other repositories of a destination's registry, so that only blobs that it lacks are sent.

A registry mounts a blob from any repository that has it, but the request must name that repository. A
manifest shows it: the blobs that it lists are in its repository. So before a large blob is sent, manifests of other
repositories there are read, until one lists the blob, or the search has reached its limit. Each repository is read once
a week, and when a comparison has seen an image there that this process does not know; its blobs are kept in the ledger,
and shared with other processes through `BlobLocks`. A registry that never mounts is not searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import re
import time
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from replicator.copy.ledger import BYTES_A_REQUEST, MOST_MANIFESTS, SMALL, Allowance, Place
from replicator.errors import ReplicatorError
from replicator.reference import Repository, is_signature_tag
from replicator.registry.errors import NotFound, UnsupportedManifest
from replicator.registry.places import Budget, PromotingLock
from replicator.retry import waiting
from replicator.tasks import gather_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from replicator.copy.ledger import BlobLocks, Ledger, SelectionStore
    from replicator.registry import Manifest, Registries, RemoteRepository

    Neighbours = Callable[[Registries, Callable[[Repository], object]], Awaitable[None]]
    """Calls the callback with repositories of destinations, of any registry, that may have blobs to mount."""

_log = structlog.get_logger("replicator.copy")

MOST_REPOSITORIES = 10_000
"""Repositories of one registry that are known at once."""
_AT_ONCE = 8
"""Manifests of one registry read at once, each up to 4 MiB; pushes may add a quarter."""
_BYTES_A_SECOND = 1024 * 1024
"""Bytes to send that justify a second of waiting for a search."""
LEAST_SECONDS, MOST_SECONDS = 5.0, 30.0
ALL_MANIFESTS = 512
"""Manifests read of one registry, but always at least one of each repository."""
_MOST_CHILDREN = 8
"""Images read of one index."""
_MOST_SEEN = 4
"""Digests kept of the manifests that comparisons saw in one repository."""
_MOST_TAGS = 1000
"""Tags of a repository among which the newest are chosen: one page of its list."""
READ_SECONDS = 7 * 24 * 3600.0
"""Seconds after which a repository is read again."""
_FAILED_SECONDS = 600.0
"""Seconds for which a repository that could not be read is left alone, and a list of neighbours that failed too."""
_ASKED_SECONDS = 24 * 3600.0
"""Seconds for which a list of neighbours is used."""


class Survey:
    """Searches of one process; each uses the results of the others.

    Args:
        registries: access to the registries.
        ledger: where blobs are noted.
        locks: shares the results with other processes.
        neighbours: names further repositories; None for those that `expect` and `seen` name alone.
        store: keeps for other processes which repositories were read; None for a single process.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        registries: Registries,
        ledger: Ledger,
        locks: BlobLocks,
        *,
        neighbours: Neighbours | None = None,
        store: SelectionStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registries = registries
        self._ledger = ledger
        self._locks = locks
        self._neighbours = neighbours
        self._store = store
        self._clock = clock
        self._places: dict[str, dict[str, Place]] = {}
        self._ask_again: dict[str, float] = {}
        self._asking: set[str] = set()
        # By registry. A push does not wait for the turn of a backfill, nor for the manifests that it reads.
        self._turns = defaultdict[str, Budget](lambda: Budget(1))
        self._reads = defaultdict[str, Budget](lambda: Budget(_AT_ONCE))
        self._at_work = PromotingLock()

    def expect(self, repositories: Iterable[Repository], *, whole: bool = False) -> None:
        """Note repositories of destinations that may exist.

        Args:
            repositories: of any registries.
            whole: whether they are all that `neighbours` would name, so that it need not be asked.
        """
        for repository in repositories:
            self._place(repository)
            if whole:
                self._ask_again[repository.registry] = self._clock() + _ASKED_SECONDS

    def seen(self, repository: Repository, digest: str) -> None:
        """Note a manifest that a comparison saw in a repository: it can be read without a list of tags."""
        if self._ledger.knows(repository.registry, repository.name, digest):
            return
        place = self._place(repository)
        place.renew(self._clock())
        if place.done_until is not None:
            place.read_again(digest)
        elif not place.read and not place.listed and digest not in place.unread:
            place.unread = [digest, *place.unread][:_MOST_SEEN]

    def may_find(self, target: RemoteRepository) -> bool:
        """Tell whether a search for a blob that ``target`` lacks would read anything."""
        if target.abilities.mounts is False:
            return False
        registry = target.repository.registry
        return registry in self._asking or self._must_ask(registry) or any(self._open(target))

    async def find(self, target: RemoteRepository, digest: str, size: int, allowance: Allowance) -> None:
        """Read repositories of a registry until the ledger knows one from which a blob can be mounted.

        It never fails, and ends when it has cost what the size is worth: the allowance and `MOST_SECONDS` are its
        bounds. The next search continues from there.

        Args:
            target: the repository that lacks the blob.
            digest: the blob.
            size: bytes of the image that would be sent otherwise.
            allowance: the maximum cost of the searches for all blobs of the image.
        """
        registry, name = target.repository.registry, target.repository.name
        within = min(max(size / _BYTES_A_SECOND, LEAST_SECONDS), MOST_SECONDS)
        # A search waits no longer than ``within``, e.g. for the search of another copy.
        with contextlib.suppress(TimeoutError), waiting():
            async with asyncio.timeout(within):
                while True:
                    # One round at a time: what one search reads may be all that another one waits for.
                    async with self._turns[registry].slot():
                        await self._ask(registry)
                        refused = target.abilities.closed
                        if self._ledger.mount_source(registry, name, digest, without=refused) is not None:
                            return
                        places = await self._next(target, allowance.requests)
                        if not places:
                            return
                        await gather_all(self._read(place, allowance) for place in places)

    def shares_login(self, target: RemoteRepository, name: str) -> bool:
        """Tell whether another repository of the registry has the login of ``target``."""
        try:
            other = self._registries.destination(Repository(target.repository.registry, name))
        except ReplicatorError:
            return False
        return other.abilities is target.abilities

    async def reads(self, target: RemoteRepository, name: str, digest: str) -> bool:
        """Tell whether the login of a repository finds a blob in another one; False if that can't be found out."""
        if not self.shares_login(target, name):
            return False
        try:
            return await self._registries.destination(Repository(target.repository.registry, name)).has_blob(digest)
        except ReplicatorError:
            return False

    def _place(self, repository: Repository) -> Place:
        places = self._places.setdefault(repository.registry, {})
        if repository.name not in places:
            if len(places) >= MOST_REPOSITORIES:
                del places[next(iter(places))]
            places[repository.name] = Place(repository)
        return places[repository.name]

    def _open(self, target: RemoteRepository) -> Iterator[Place]:
        """Return the places that may be read now."""
        now, login = self._clock(), target.abilities
        for place in self._places.get(target.repository.registry, {}).values():
            if place.rests_until <= now and place.closed_to is not login and place.repository != target.repository:
                yield place

    def _must_ask(self, registry: str) -> bool:
        return self._neighbours is not None and self._ask_again.get(registry, float("-inf")) <= self._clock()

    async def _ask(self, registry: str) -> None:
        """Learn which repositories there may be, from time to time."""
        # Callers that come while they are listed wait for them too.
        async with self._at_work.hold(registry):
            if self._neighbours is None or not self._must_ask(registry):
                return
            # If it fails, or takes longer than the search may, the repositories named so far are used.
            self._ask_again[registry] = self._clock() + _FAILED_SECONDS
            self._asking.add(registry)
            try:
                await self._neighbours(self._registries, self._place)
            except ReplicatorError as error:
                _log.debug("neighbours unknown", registry=registry, error=error)
            else:
                self._ask_again[registry] = self._clock() + _ASKED_SECONDS
            finally:
                self._asking.discard(registry)

    async def _next(self, target: RemoteRepository, requests: int) -> list[Place]:
        """Choose the places to read next with so many requests: each one's newest image before any second one."""
        places = list(self._open(target))
        await self._recall([place for place in places if not place.recalled])
        namespace = target.repository.name.partition("/")[0]
        now = self._clock()
        for place in places:
            place.renew(now)

        def order(place: Place) -> tuple[int, int, bool]:
            return place.read, place.failures, place.repository.name.partition("/")[0] != namespace

        def is_ours(place: Place) -> bool:
            # A repository under another login may be closed to the one that mounts.
            if not self.shares_login(target, place.repository.name):
                place.closed_to = target.abilities
            return place.closed_to is not target.abilities

        ordered = sorted((place for place in places if place.rests_until <= now), key=order)
        # A list of tags and a manifest are two requests.
        most = min(max(requests // 2, 1), _AT_ONCE) if requests > 0 else 0
        # What a backfill is reading may be all that a push waits for, but only if there is nothing else to read.
        idle = islice((place for place in ordered if not place.busy and is_ours(place)), most)
        return list(idle) or list(islice((place for place in ordered if place.busy and is_ours(place)), most))

    async def _recall(self, places: Sequence[Place]) -> None:
        """Ask the other processes how far they have read repositories."""
        if self._store is None or not places:
            return
        texts = await self._store.recall([place.name for place in places])
        for place, text in zip(places, texts, strict=True):
            if place.recalled:
                continue  # another search has asked as well
            place.recalled = True
            match = re.fullmatch(r"(\d{1,12}) (\d{1,3})", text or "")
            age = abs(time.time() - int(match[1])) if match is not None else READ_SECONDS
            if match is not None and age < READ_SECONDS:
                place.read = place.skip = int(match[2])
                self._rest_if_exhausted(place, READ_SECONDS - age)

    def _is_exhausted(self, place: Place) -> bool:
        """Tell whether nothing more is read of a place: the more there are, the less of each."""
        places = len(self._places[place.repository.registry])
        most = min(max(ALL_MANIFESTS // places, 1), MOST_MANIFESTS)
        return place.read >= most or (place.listed and not place.unread and not place.images)

    def _rest_if_exhausted(self, place: Place, seconds: float) -> None:
        if self._is_exhausted(place):
            # A manifest that a comparison saw in the meantime prolongs no rest.
            place.rest(place.done_until or self._clock() + seconds)

    async def _read(self, place: Place, allowance: Allowance) -> None:
        """Read one more manifest of a repository, or as much of it as is allowed."""
        before = place.read
        async with self._at_work.hold(place.repository.registry, place.repository.name):
            if place.read != before or place.rests_until > self._clock():
                return  # another search has just read it
            place.busy = True
            try:
                done = await self._read_on(place, allowance)
            except BaseException as error:
                # Also if the search had no more time for it. Other processes may have more luck.
                place.failures += 1
                place.rests_until = self._clock() + _FAILED_SECONDS
                if not isinstance(error, ReplicatorError):
                    raise
                _log.debug("repository not read", repository=str(place.repository), error=error)
                return
            finally:
                place.busy = False
            place.failures = 0
            if not done:
                return
            place.read += 1
            place.reads += 1
            if self._store is not None and place.done_until is None:
                read = MOST_MANIFESTS if self._is_exhausted(place) else place.read
                self._store.note(place.name, f"{int(time.time())} {read}")
            self._rest_if_exhausted(place, READ_SECONDS)

    async def _read_on(self, place: Place, allowance: Allowance) -> bool:
        """Read the manifests that a repository's next image names; return whether all of them were allowed."""
        remote = self._registries.destination(place.repository)
        if not place.unread and not place.images and not place.listed:
            if not allowance.take():
                return False
            try:
                tags = await _newest_tags(remote, allowance)
            except NotFound:
                tags = []
            place.unread, place.listed = tags[place.skip :], True
        if place.unread and not place.images:
            if not allowance.take():
                return False
            following = place.unread[0]
            manifest = await self._get(remote, following, allowance)
            if manifest is not None:
                place.known = {**place.known, manifest.digest: None}
                if manifest.is_index:
                    images = [each for each in manifest.manifests if not each.is_index and not each.is_attestation]
                    place.images = [image.digest for image in images[:_MOST_CHILDREN]]
                await self._learn(remote, [manifest])
            # A comparison may have put another one before it.
            place.unread = [identifier for identifier in place.unread if identifier != following]
        if place.images:
            some = place.images[: allowance.take_some(len(place.images))]
            manifests = await gather_all(self._get(remote, digest, allowance) for digest in some)
            await self._learn(remote, [manifest for manifest in manifests if manifest is not None])
            del place.images[: len(some)]
        return not place.images

    async def _learn(self, remote: RemoteRepository, manifests: Sequence[Manifest]) -> None:
        """Note the blobs that manifests of a repository name."""
        digests = dict.fromkeys(
            blob.digest for each in manifests for blob in each.blobs if blob.size > SMALL and not blob.is_foreign
        )
        registry, name = remote.repository.registry, remote.repository.name
        for digest in digests:
            self._ledger.add(registry, name, digest, confirmed=False)
        if digests:
            await self._locks.share(registry, name, list(digests))

    async def _get(self, remote: RemoteRepository, identifier: str, allowance: Allowance) -> Manifest | None:
        """Read a manifest; None if it is gone, or of a type that names no blobs."""
        async with self._reads[remote.repository.registry].slot():
            try:
                manifest = await remote.get_manifest(identifier)
            except (NotFound, UnsupportedManifest):
                return None
        allowance.requests -= len(manifest.content) // BYTES_A_REQUEST
        return manifest


async def _newest_tags(remote: RemoteRepository, allowance: Allowance) -> list[str]:
    """List the tags that most likely name the newest images: ``latest``, then the highest numbers in a name."""
    tags: list[str] = []
    async with contextlib.aclosing(remote.tags(more=allowance.take)) as listed:
        async for tag in listed:
            tags.append(tag)
            if len(tags) >= _MOST_TAGS:
                break
    images = (tag for tag in tags if not is_signature_tag(tag))
    return heapq.nlargest(MOST_MANIFESTS, images, key=lambda tag: (tag == "latest", _natural(tag)))


def _natural(tag: str) -> list[tuple[bool, int, str]]:
    """Return a key that orders numbers in names by their value."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", tag)]
