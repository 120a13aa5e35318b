"""Blob transfer to a destination: each blob once, however many images need it at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator.copy.context import PUSH_AGAIN
from replicator.copy.ledger import LARGE, SMALL, NoBlobLocks
from replicator.copy.mounts import ImageMounts
from replicator.registry.errors import DigestMismatch, NotFound, RegistryError
from replicator.registry.limits import body, transfer
from replicator.registry.manifest import embedded
from replicator.registry.places import Budget, PromotingLock, is_bulk, promotion
from replicator.retry import is_transient, retrying, waiting
from replicator.tasks import cancel_all, gather_tolerant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from yarl import URL

    from replicator.copy.context import CopyContext
    from replicator.copy.ledger import BlobLocks, Ledger
    from replicator.copy.survey import Survey
    from replicator.registry import Descriptor, RemoteRepository
    from replicator.registry.errors import Cut
    from replicator.registry.flow import Flow

_log = structlog.get_logger("replicator.copy")

_MAX_ATTEMPTS = 4
"""Attempts per blob without progress; after that the queue retries the whole copy."""
_MAX_CORRUPT_ATTEMPTS = 2
"""Attempts for a blob with a wrong digest: if it is wrong twice, somebody has to repair the source's storage."""
_FURTHER = 4 * 1024 * 1024
"""Bytes that an upload must get further to have made progress: the system's buffers hold as many that never left."""
_STILL_SECONDS, _LOOK_SECONDS = 8.0, 2.0
"""Seconds after which a body counts as standing still, and between two looks at it."""
_LONG = 5.0
"""Seconds from which the time of an upload may have been limited."""
_SMALL_AT_ONCE = 32
"""Small blobs in memory at once between two registries, each of `SMALL` bytes at the most; pushes may add as many."""


class BlobCopier:
    """Copies blobs; all copies of a process share its ledger and its locks.

    Args:
        ledger: the blobs that registries are known to have.
        locks: locks shared with other processes.
        survey: finds repositories to mount from; None to use those alone that this process and the others copied to.

    Attributes:
        small: the small blobs in memory, by source and destination: where one stalls, the others go on.
    """

    def __init__(self, ledger: Ledger, locks: BlobLocks | None = None, survey: Survey | None = None) -> None:
        self.ledger = ledger
        self.locks = locks or NoBlobLocks()
        self.survey = survey
        self.small = defaultdict[tuple[str, str], Budget](lambda: Budget(_SMALL_AT_ONCE))
        self._process_locks = PromotingLock()
        self._images = 0

    async def ensure(self, blobs: Iterable[Descriptor], context: CopyContext, *, distrust: bool = False) -> None:
        """Make sure that the target repository has all ``blobs`` of an image.

        With ``distrust``, neither the ledger nor a mount is trusted: each blob is looked up or sent.

        Raises:
            RegistryError: the source or the destination failed.
        """
        self._images += 1
        # Probing only pays off from the second image on.
        upload = _ImageUpload(self, context, probe=self._images > 1, distrust=distrust)
        # The largest first: the others fit in beside it.
        ordered = sorted(blobs, key=lambda blob: -blob.size)
        upload.mounts.plan(ordered)
        await gather_tolerant(self._ensure(blob, upload) for blob in ordered)

    async def _ensure(self, blob: Descriptor, upload: _ImageUpload) -> None:
        async with self._process_locks.hold(upload.registry, blob.digest):
            # The previous holder may have copied the blob, here or to a repository it can be mounted from.
            if upload.distrust:
                await upload.copy(blob)
            elif self.ledger.has(upload.registry, upload.name, blob.digest):
                upload.tally.blobs_present += 1
            elif blob.size <= SMALL:
                await upload.copy(blob)
            else:
                await upload.copy_locked(blob)

    def distrust_mounts(self, target: RemoteRepository) -> None:
        """Stop trusting the mounts and redirects of a registry, because a blob that they stood for was missing."""
        target.abilities.redirects = False if target.abilities.redirects else None
        if target.abilities.mounts_hold:
            target.abilities.mounts_hold = False
            _log.warning("mounts do not hold", registry=target.repository.registry)

    async def forget(self, target: RemoteRepository, digests: Iterable[str]) -> None:
        """Forget that a repository has these blobs, because its registry contradicted it."""
        repository = target.repository
        for digest in digests:
            self.ledger.forget(repository.registry, repository.name, digest)
            await self.locks.forget(repository.registry, repository.name, digest)


def limit_of(cuts: list[Cut], size: int) -> tuple[str, str]:
    """Say how uploads of ``size`` bytes were cut off alike, and what to do; both are empty if they were not.

    They are if it was at about the same byte, or after about the same time: then a proxy has a limit.
    """
    if not cuts[1:]:
        return "", ""
    sent, seconds = [cut.sent for cut in cuts], [cut.seconds for cut in cuts]
    by_size = LARGE < max(sent) < size and max(sent) - min(sent) < max(sent) / 10 + LARGE / 2
    by_time = min(seconds) > _LONG and max(seconds) - min(seconds) < max(seconds) / 10 + 1
    places = [f"at about {max(sent) / 1e6:.0f} MB"] * by_size + [f"after about {max(seconds):.0f} s"] * by_time
    if not places:
        return "", ""
    limits, settings = ["a body"] * by_size + ["a request's time"] * by_time, ["client_max_body_size"] * by_size
    settings += ["proxy_send_timeout", "proxy_read_timeout"] * by_time
    what = f"each time {' and '.join(places)} ({len(cuts)} times)"
    return what, f"a proxy seems to limit {' or '.join(limits)}: raise it (nginx: {', '.join(settings)})"


@dataclass(slots=True)
class _Sending:
    """A body that holds a stream.

    Attributes:
        began: when it got the stream, on the monotonic clock.
        flow: None while it waits for its places at both hosts.
    """

    began: float = 0.0
    flow: Flow | None = None

    def stands_still(self, seconds: float) -> bool:
        """Tell whether nothing has moved for so long, although no more urgent body holds it back."""
        if self.flow is None:
            return time.monotonic() - self.began >= seconds
        return self.flow.stands_still(seconds)


class _ImageUpload:
    """Upload of the blobs of one image."""

    def __init__(self, copier: BlobCopier, context: CopyContext, *, probe: bool, distrust: bool) -> None:
        self.registry, self.name = context.target.repository.registry, context.target.repository.name
        self.distrust = distrust
        self.tally = context.tally
        self._probe, self._found = probe, set[str]()
        self._context = context
        self._source, self._target = context.origin, context.target
        self._ledger, self._locks, self._streams = copier.ledger, copier.locks, context.target.limits.streams
        self._small = copier.small[self._source.repository.registry, self.registry]
        self.mounts = ImageMounts(context, copier.ledger, copier.locks, copier.survey, distrust=distrust)

    async def copy_locked(self, blob: Descriptor) -> None:
        """Copy a blob under the lock that all processes share, unless another process has just copied it."""
        locked = self._locks.hold(
            self.registry, self.name, blob.digest, urgent=lambda: not is_bulk(), on_urgent=promotion()
        )
        async with locked as lock:
            if lock.present:
                self._ledger.add(self.registry, self.name, blob.digest)
                self.tally.blobs_present += 1
                return
            for name in reversed(lock.mount_sources):
                self._ledger.add(self.registry, name, blob.digest, confirmed=False)
            await self.copy(blob)
            lock.mark_present()

    async def copy(self, blob: Descriptor) -> None:
        """Find, mount or send a blob, with retries after transient errors.

        An attempt that got further than all before it has made progress, and the next ones count from one again.
        """
        corrupt = failures = 0
        cuts: list[Cut] = []

        def is_retryable(error: Exception) -> bool:
            nonlocal corrupt, failures
            failures += 1
            if isinstance(error, RegistryError) and error.cut is not None:
                if error.cut.sent > 1.25 * max((cut.sent for cut in cuts), default=0) + _FURTHER:
                    failures = 1
                cuts.append(error.cut)
            if isinstance(error, DigestMismatch):
                corrupt += 1
                return corrupt < _MAX_CORRUPT_ATTEMPTS
            source = self._source.repository.registry
            if isinstance(error, RegistryError) and error.registry == source != self.registry:
                # The stream has already resumed for as long as anything moved, so the source is down.
                return False
            return is_transient(error) and failures < _MAX_ATTEMPTS

        def log(error: Exception, attempt: int, _: float) -> None:
            _log.info("blob repeated", digest=blob.digest, attempt=attempt, error=error)

        try:
            await retrying(lambda: self._attempt(blob), attempts=None, retryable=is_retryable, on_retry=log)
        except RegistryError as error:
            why, do = limit_of(cuts, blob.size)
            error.why, error.do = ", ".join(filter(None, (error.why, why))), do or error.do
            raise
        self._ledger.add(self.registry, self.name, blob.digest)

    async def _attempt(self, blob: Descriptor) -> None:
        if blob.size > SMALL:
            await self._open_and_send(blob)
            return
        async with self._small.slot(blob.size):
            # Beside the request that opens the upload, unless that most likely finds the blob.
            reading = None if self.mounts.may_find(blob) else asyncio.create_task(self._read(blob))
            try:
                await self._open_and_send(blob, reading)
            finally:
                await cancel_all(() if reading is None or reading.done() else (reading,))

    async def _open_and_send(
        self, blob: Descriptor, reading: asyncio.Task[bytes | RegistryError | None] | None = None
    ) -> None:
        """Open an upload and send a blob, unless it is found; ``reading`` has the bytes of a small one."""
        location, found_in = await self.mounts.open_upload(blob)
        if location is None:
            if found_in == self.name:
                self.tally.blobs_present += 1
            else:
                self.tally.blobs_mounted += 1
            return
        if blob.digest not in self._found:
            self._found.add(blob.digest)
            self._context.on_bytes(0, blob.size)
        try:
            content = await self._content(blob, reading) if blob.size <= SMALL else None
            if content is None:
                await self._send_stream(blob, location)
            else:
                await self._send_content(blob, location, content)
        except BaseException as error:
            # A cancelled copy leaves its upload session to the registry's clean-up: there may be no time for a request.
            if isinstance(error, Exception):
                await self._target.cancel_upload(location)
            raise
        self.tally.blobs_copied += 1
        self.tally.bytes += blob.size
        if self._probe:
            await self.mounts.probe(blob)

    async def _content(
        self, blob: Descriptor, reading: asyncio.Task[bytes | RegistryError | None] | None
    ) -> bytes | None:
        content = await (reading or self._read(blob))
        if isinstance(content, RegistryError):
            raise content
        return content

    async def _read(self, blob: Descriptor) -> bytes | RegistryError | None:
        """Read a small blob with one request.

        Returns:
            Its bytes; the error if the source refuses it; None after any other fault: a stream overcomes them all.
        """
        content, _ = embedded(blob)
        if content is not None:
            return content
        try:
            content = await self._source.read_blob(blob, blob.size, attempts=1)
        except RegistryError as error:
            return None if error.status is None or is_transient(error) else _explained(error, blob)
        # One that is shorter than its manifest says is refused as the stream's.
        return content if len(content) == blob.size else None

    async def _send_content(self, blob: Descriptor, location: URL, content: bytes) -> None:
        self._context.on_bytes(len(content))
        with body(self._source.limits, self._target.limits, blob.size) as flow:
            with waiting():
                await flow.whole_turn(blob.size)
            await self._target.put_blob(location, blob.digest, content)
            flow.sent(blob.size)

    async def _send_stream(self, blob: Descriptor, location: URL) -> None:
        # A small blob takes no memory worth counting: the budgets of the hosts are enough.
        small = blob.size <= SMALL
        if not small:
            # Before it takes a stream that others could use.
            await self._source.limits.pause()
            await self._target.limits.pause()
        async with (
            contextlib.nullcontext(_Sending()) if small else self._stream(blob) as sending,
            transfer(self._source.limits, self._target.limits, blob.size) as sending.flow,
        ):
            await self._send(blob, location, sending.flow)

    async def _send(self, blob: Descriptor, location: URL, flow: Flow) -> None:
        try:
            stream = await self._source.open_blob(blob, self._context.on_bytes)
        except NotFound as error:
            _explained(error, blob)
            raise
        try:
            await self._target.finish_upload(location, stream, flow)
        finally:
            await stream.aclose()

    @contextlib.asynccontextmanager
    async def _stream(self, blob: Descriptor) -> AsyncIterator[_Sending]:
        """Hold a stream for a body, and lend it to others while the body stalls, e.g. because its source is silent."""
        loop = asyncio.get_running_loop()
        sending = _Sending()
        lent = 0
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal lent, timer
            still = int(sending.stands_still(_STILL_SECONDS))
            if still != lent:
                self._streams.lend(still - lent)
            lent, timer = still, loop.call_later(_LOOK_SECONDS, look)

        async with self._streams.slot(blob.size):
            sending.began = time.monotonic()
            look()
            try:
                yield sending
            finally:
                if timer is not None:
                    timer.cancel()
                if lent:
                    self._streams.lend(-lent)


def _explained(error: RegistryError, blob: Descriptor) -> RegistryError:
    """Add to the error of a blob that its source does not have what to do about it."""
    if isinstance(error, NotFound):
        error.why, error.do = error.why + embedded(blob)[1], error.do or PUSH_AGAIN
    return error
