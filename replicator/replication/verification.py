"""A deeper check of destinations than a comparison of tags: the parts of their images, and tags that no rule names.

The rows of a comparison wait in a temporary database meanwhile, and are looked at part by part. Nothing is written at
any registry, and no manifest is read at a source.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, TypeVar

from cachetools import LRUCache

from replicator.copy.selection import MAX_DEPTH
from replicator.errors import ErrorText, ReplicatorError
from replicator.reference import Reference, is_signature_tag, parse_signature_tag
from replicator.registry.errors import Denied, NotFound
from replicator.replication.advice import explained
from replicator.replication.attestation import AS_WANTED, Compared, State
from replicator.replication.report import SortedRows
from replicator.replication.transfer import select
from replicator.tasks import KeyedLock, gather_all, merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

    from replicator.reference import Repository
    from replicator.registry import Descriptor, Manifest, Registries, RemoteRepository
    from replicator.rules import Rules

T = TypeVar("T")

_ROWS_AT_ONCE = 500
_IMAGES_AT_ONCE = 16
"""Images whose manifests are read at once, each of up to 4 MiB."""
_CHILDREN_AT_ONCE = 4
_REPOSITORIES_AT_ONCE = 8
_TAGS_AT_ONCE = 100
_MAX_KNOWN = 100_000
"""Manifests and blobs whose presence is remembered; others are asked for again."""
_MAX_NAMED = 3
"""Missing parts of an image that are named."""


class Verification:
    """Looks at the destinations of a comparison.

    Args:
        registries: access to them.
        rules: those that were compared.

    Attributes:
        unnamed: repositories all of whose tags are extra.
    """

    def __init__(self, registries: Registries, rules: Rules) -> None:
        self._registries = registries
        self._rules = rules
        self._rows = SortedRows()
        self._known: LRUCache[tuple[str, str], tuple[str, ...]] = LRUCache(_MAX_KNOWN)
        self._locks = KeyedLock()
        self._images = asyncio.Semaphore(_IMAGES_AT_ONCE)
        self.unnamed: list[Repository] = []

    def add(self, row: Compared) -> None:
        """Take a row of the comparison. An error is raised later."""
        self._rows.add(row.destination, row.source, row.line)

    def close(self) -> None:
        """Forget all rows."""
        self._rows.close()

    async def rows(self, *, deep: bool) -> AsyncGenerator[Compared, None]:
        """Yield the rows, sorted by destination and source.

        Args:
            deep: also read the manifests of equal images at the destination, and ask for each blob; a row whose image
                lacks a part there is `State.INCOMPLETE` then.

        Raises:
            ReplicatorError: there was no room for the rows.
        """
        for part in _parted(self._read(), _ROWS_AT_ONCE):
            for row in await gather_all(map(self._look, part)) if deep else part:
                yield row

    async def extras(self, destinations: Iterable[Repository]) -> AsyncGenerator[Compared, None]:
        """Yield the tags of destinations without a rule or a source tag.

        Signatures count as named as long as the image that they belong to is there. What came to a source since it was
        listed counts as named too.

        Args:
            destinations: repositories that are looked at beside those of the rows.

        Raises:
            ReplicatorError: there was no room for the rows.
        """
        async with contextlib.aclosing(merge_streams(self._streams(destinations), _REPOSITORIES_AT_ONCE)) as found:
            async for row in found:
                yield row

    def _read(self) -> Iterator[Compared]:
        return (Compared.parse(line) for _, _, line in self._rows.read())

    async def _look(self, row: Compared) -> Compared:
        if row.state is not State.EQUAL or row.destination_digest is None:
            return row
        remote = self._registries.destination(Reference.parse(row.destination).repository)
        try:
            async with self._images:
                lacks = await self._lacks(remote, row.destination_digest)
        except ReplicatorError as error:
            return replace(row, state=State.FAILED, note=str(ErrorText.of(error)))
        if not lacks:
            return row
        more = f" and {len(lacks) - _MAX_NAMED} more" if len(lacks) > _MAX_NAMED else ""
        return replace(row, state=State.INCOMPLETE, note=f"{', '.join(lacks[:_MAX_NAMED])}{more}")

    async def _lacks(self, remote: RemoteRepository, digest: str) -> tuple[str, ...]:
        """Name the parts of the image ``digest`` that a repository lacks."""
        try:
            return await self._parts(remote, await remote.get_manifest(digest))
        except NotFound:
            return (f"the manifest {digest} is not there",)

    async def _child(self, remote: RemoteRepository, child: Descriptor, index: str, depth: int) -> tuple[str, ...]:
        key = str(remote.repository), child.digest
        async with self._locks.hold(*key):
            if (known := self._known.get(key)) is None:
                try:
                    known = await self._parts(remote, await remote.get_child(child, index), depth)
                except NotFound:
                    known = (f"the manifest {child.digest} is not there",)
                self._known[key] = known
        return known

    async def _parts(self, remote: RemoteRepository, manifest: Manifest, depth: int = 0) -> tuple[str, ...]:
        lacks: dict[str, None] = {}
        if depth <= MAX_DEPTH:
            for part in _parted(manifest.manifests, _CHILDREN_AT_ONCE):
                found = await gather_all(self._child(remote, each, manifest.digest, depth + 1) for each in part)
                lacks |= dict.fromkeys(text for texts in found for text in texts)
        # Foreign layers need not be there, see `Pusher`.
        blobs = [blob.digest for blob in manifest.blobs if not blob.is_foreign]
        found = await gather_all(self._blob(remote, digest) for digest in blobs)
        return (*lacks, *(text for texts in found for text in texts))

    async def _blob(self, remote: RemoteRepository, digest: str) -> tuple[str, ...]:
        key = str(remote.repository), digest
        async with self._locks.hold(*key):
            if (known := self._known.get(key)) is None:
                there = await remote.has_blob(digest)
                known = self._known[key] = () if there else (f"the blob {digest} is not there",)
        return known

    def _streams(self, destinations: Iterable[Repository]) -> Iterator[AsyncGenerator[Compared, None]]:
        """Make a stream for each repository; the tags that are named in it are in memory as long as it is read."""
        seen: set[Repository] = set()
        rows = ((Reference.parse(row.destination), row.state) for row in self._read() if row.destination)
        for repository, group in groupby(rows, key=lambda row: row[0].repository):
            tags: dict[str, bool] = {}
            for reference, state in group:
                if reference.tag is not None:
                    tags[reference.tag] = state in AS_WANTED
            # A repository that is named by digest and by tag comes in two parts of the order.
            if repository not in seen:
                seen.add(repository)
                yield self._extra(repository, tags)
        for repository in destinations:
            if repository not in seen:
                yield self._extra(repository, {})

    async def _extra(self, repository: Repository, named: dict[str, bool]) -> AsyncGenerator[Compared, None]:
        remote = self._registries.destination(repository)
        others, listed, extra = [], 0, 0
        try:
            async for tag in remote.tags(patient=True):
                listed += 1
                if tag not in named:
                    others.append(tag)
        except NotFound:
            return
        except ReplicatorError as error:
            # ACR denies a repository that is not there.
            if not isinstance(error, Denied) or any(named.values()):
                yield Compared("", str(repository), State.FAILED, note=f"its tags: {explained(error)}")
            return
        for part in _parted(others, _TAGS_AT_ONCE):
            for row in await gather_all(self._judge(remote, tag) for tag in part):
                if row is not None:
                    extra += row.state is State.EXTRA
                    yield row
        if listed and extra == listed:
            self.unnamed.append(repository)

    async def _judge(self, remote: RemoteRepository, tag: str) -> Compared | None:
        """Return the row of a tag that no row names; None if it is not extra."""
        destination = Reference(remote.repository, tag)
        try:
            if is_signature_tag(tag):
                subject = parse_signature_tag(tag)
                if subject is None or await remote.head_manifest(subject[0]) is not None:
                    return None
            elif await self._is_named_now(destination):
                return None
            head = await remote.head_manifest(tag)
        except ReplicatorError as error:
            return Compared("", str(destination), State.FAILED, note=str(explained(error)))
        if head is None:
            return None
        note = "no rule copies any source tag to it"
        return Compared("", str(destination), State.EXTRA, destination_digest=head.digest, note=note)

    async def _is_named_now(self, destination: Reference) -> bool:
        """Tell whether a tag came to a source since that was listed; the source is asked by HEAD, which is no pull."""
        for claim in self._rules.claims(destination):
            source = self._registries.source(claim.source.repository)
            if await source.head_manifest(claim.source.identifier) is None:
                continue
            if not isinstance(await select(self._registries, claim), str):
                return True
        return False


def _parted(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield items in tuples of ``size``, the last one shorter."""
    remaining = iter(items)
    while part := tuple(islice(remaining, size)):
        yield part
