"""Private stays private: finds images that are private at their source and that anyone may pull at their destination.

Both ends are asked for the manifest as anyone can ask, without a login: after the first copy into a repository, once a
week while it is fine, and once a day while it is not. The destination is asked first, since mostly nothing else is
needed. An unclear answer causes no warning; it is asked again later.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import aclosing, asynccontextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING

import structlog
from cachetools import TTLCache

from replicator.copy.options import Public
from replicator.errors import ErrorClass, ErrorText, ReplicatorError
from replicator.queue.memory import PublicAnswer, PublicCopies, PublicCopy
from replicator.reference import Reference
from replicator.registry.errors import Denied, NotFound, Unauthorized
from replicator.registry.places import BULK
from replicator.replication.advice import close_to_anyone
from replicator.replication.transfer import CopyFailed
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import Queue
    from replicator.registry import Registries, RemoteRepository
    from replicator.rules import CopyRequest, Rules

log = structlog.get_logger("replicator.copy")

_AT_ONCE = 2
MOST_WAITING = 1000
"""Checks that wait for their turn; if there are more, a later copy makes the check."""
_LAST_SECONDS = 3.0
"""Seconds that an ending process waits for the checks that it has begun."""
_TICK_SECONDS = 60.0
_LOCAL_SECONDS = 3600.0
_MAX_LOCAL = 10_000


class Pull(Enum):
    """The answer to a request for a manifest without a login."""

    OPEN = "open"
    """The manifest."""
    CLOSED = "closed"
    """A clear refusal: 401 or 403, or a 404 for what the login finds."""
    ABSENT = "absent"
    """Nothing: there is none for the login either."""
    UNKNOWN = "unknown"
    """No usable answer."""


async def try_pull(registries: Registries, image: Reference, *, source: bool) -> Pull:
    """Ask for a manifest as anyone can, by HEAD, which counts as no pull. Raises nothing.

    Args:
        registries: where.
        image: the manifest.
        source: whether it is one to copy from, and not one that was copied.
    """
    try:
        anyone = registries.anonymous(image.repository, source=source)
        if await anyone.head_manifest(image.identifier, explain=False) is not None:
            return Pull.OPEN
        # A 404 alone says little: the tag may be new to a repository that is open.
        if await _first_is_open(anyone):
            return Pull.OPEN
    except (Denied, Unauthorized) as error:
        # Other statuses of these, as of a token endpoint that gives no token, are no clear refusal.
        return Pull.CLOSED if error.status in (401, 403) else Pull.UNKNOWN
    except ReplicatorError:
        return Pull.UNKNOWN
    try:
        ours = registries.source(image.repository) if source else registries.destination(image.repository)
        found = await ours.head_manifest(image.identifier, explain=False)
    except ReplicatorError:
        return Pull.UNKNOWN
    return Pull.CLOSED if found is not None else Pull.ABSENT


async def _first_is_open(anyone: RemoteRepository) -> bool:
    """Tell whether anyone may pull another tag of the repository; False where its tags can't be listed."""
    try:
        async with aclosing(anyone.tags(lambda: False)) as tags:
            tag = await anext(tags, None)
        return tag is not None and await anyone.head_manifest(tag, explain=False) is not None
    except (Denied, NotFound, Unauthorized):
        return False


async def compare_ends(
    registries: Registries,
    source: Reference,
    destination: Reference,
    *,
    absent: PublicAnswer = PublicAnswer.UNKNOWN,
) -> PublicAnswer:
    """Find out whether an image is private at its source and public at its destination. Raises nothing.

    Args:
        registries: where.
        source: what was copied.
        destination: where to.
        absent: what it means that there is nothing at the destination.
    """
    there = await try_pull(registries, destination, source=False)
    if there is Pull.OPEN:
        return await judge_source(registries, source)
    return {Pull.CLOSED: PublicAnswer.FINE, Pull.ABSENT: absent}.get(there, PublicAnswer.UNKNOWN)


async def judge_source(registries: Registries, source: Reference) -> PublicAnswer:
    """Find out whether an image is private at its source, given that it is public at its destination."""
    with suppress(ReplicatorError):
        if registries.is_anonymous(source.repository):
            return PublicAnswer.FINE
        here = await try_pull(registries, source, source=True)
        return {Pull.OPEN: PublicAnswer.FINE, Pull.CLOSED: PublicAnswer.PUBLIC}.get(here, PublicAnswer.UNKNOWN)
    return PublicAnswer.UNKNOWN


class Publicity:
    """Looks at the ends of copies in the background, and refuses copies whose rule says ``public: refuse``.

    Args:
        registries: asked without a login, and only at hosts that the rules name.
        copies: what is known of pairs of repositories.
        rules: those in use.
    """

    def __init__(self, registries: Registries, copies: PublicCopies, rules: Rules) -> None:
        self._registries = registries
        self._copies = copies
        self._waiting: asyncio.Queue[tuple[str, Reference, Reference]] = asyncio.Queue(MOST_WAITING)
        self._known: TTLCache[str, None] = TTLCache(_MAX_LOCAL, _LOCAL_SECONDS)
        self._renewed = asyncio.Event()
        self.renew(rules)

    def renew(self, rules: Rules) -> None:
        """Use other rules from now on: what they allow is no longer listed."""
        self._rules = rules
        self._renewed.set()

    async def guard(self, request: CopyRequest) -> None:
        """Refuse a copy whose rule does not let a private image become public, before anything is sent.

        It is known from the OpenAPI, where there is one, or from what is in the repository already.

        Raises:
            CopyFailed: the destination is public, and the source is private (for good), or gave no clear answer.
        """
        if request.options.public is not Public.REFUSE or request.signature:
            return
        source, destination = request.source, request.destination
        pair = _pair(source, destination)
        if self._registries.is_anonymous(source.repository):
            return
        if await self._copies.answer(pair) is PublicAnswer.FINE:
            return
        is_public = await self._registries.is_public(destination.repository)
        if is_public is None:
            is_public = await try_pull(self._registries, destination, source=False) is Pull.OPEN
        if not is_public:
            return
        answer = await judge_source(self._registries, source)
        if answer is PublicAnswer.FINE:
            return
        where = f"{destination.repository} is public, or would be created as public"
        if answer is PublicAnswer.PUBLIC:
            private = f"{source.repository} is private, and {where}"
            text = ErrorText("not copied", private, close_to_anyone(str(destination)))
            raise CopyFailed(text, ErrorClass.PERMANENT)
        unclear = f"{where}, and {source.registry} gives no clear answer whether {source.repository} is private"
        raise CopyFailed(ErrorText("not copied", unclear), ErrorClass.TRANSIENT)

    def copied(self, request: CopyRequest) -> None:
        """Have a look in the background, after a copy, unless there was one lately or the rule allows what it finds."""
        pair = _pair(request.source, request.destination)
        if request.options.public is Public.ALLOW or request.signature or pair in self._known:
            return
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait((pair, request.source, request.destination))
            self._known[pair] = None

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Look while the context lasts; those that have begun get a few seconds at its end."""
        looking = [asyncio.create_task(self._look_on(), name="public copies") for _ in range(_AT_ONCE)]
        again = asyncio.create_task(self._look_again(), name="public copies")
        try:
            yield
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._waiting.join()
        finally:
            await cancel_all({*looking, again})

    async def _look_on(self) -> None:
        # It never delays a push.
        BULK.set(True)
        while True:
            pair, source, destination = await self._waiting.get()
            try:
                await self._look(pair, source, destination)
            finally:
                self._waiting.task_done()

    async def _look_again(self) -> None:
        """Look at what is public each day, and take off the list at once what the rules allow."""
        BULK.set(True)
        while True:
            self._renewed.clear()
            for copy in await self._copies.listed():
                try:
                    source, destination = Reference.parse(copy.source), Reference.parse(copy.destination)
                except ValueError:  # what is in Redis is not always ours
                    continue
                pair = _pair(source, destination)
                if self._rules.allows_public(source.repository, destination.repository):
                    await self._settle(pair, PublicAnswer.LEFT, copy, "the rules allow it")
                elif pair not in self._known:
                    # Whether its day is over is asked in Redis once an hour.
                    self._known[pair] = None
                    await self._look(pair, source, destination, listed=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._renewed.wait()

    async def _look(self, pair: str, source: Reference, destination: Reference, *, listed: bool = False) -> None:
        if await self._copies.begin(pair) is not None:
            return
        copy = PublicCopy(str(source), str(destination))
        if listed and not {source.registry, destination.registry} <= self._rules.hosts:
            await self._settle(pair, PublicAnswer.LEFT, copy, "the rules allow it, or no longer name it")
            return
        # A moment after a copy, only a slow registry shows nothing.
        absent = PublicAnswer.FINE if listed else PublicAnswer.UNKNOWN
        answer = await compare_ends(self._registries, source, destination, absent=absent)
        if answer is not PublicAnswer.PUBLIC:
            await self._settle(pair, answer, copy, "it is private or gone" if listed else "")
            return
        await self._copies.end(pair, answer, copy)
        log.warning(
            "private image is public at its destination",
            source=copy.source,
            destination=copy.destination,
            do=close_to_anyone(copy.destination),
        )

    async def _settle(self, pair: str, answer: PublicAnswer, copy: PublicCopy, reason: str) -> None:
        await self._copies.end(pair, answer, copy)
        if answer in (PublicAnswer.FINE, PublicAnswer.LEFT) and reason:
            log.info("image no longer counts as public", destination=copy.destination, reason=reason)


def _pair(source: Reference, destination: Reference) -> str:
    """Name a pair of repositories in 24 characters, so that the size of an item is bounded."""
    names = f"{source.repository} {destination.repository}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(names).digest()[:18]).decode()


@asynccontextmanager
async def open_publicity(queue: Queue, registries: Registries, rules: Rules) -> AsyncIterator[Publicity]:
    """Open the looks of a process that copies; they run while the context lasts."""
    async with aclosing(PublicCopies(queue)) as copies:
        publicity = Publicity(registries, copies, rules)
        async with publicity.beside():
            yield publicity
