"""Turns to bring an item to a place, and what is known of where items are, over all processes of an installation.

It fits `replicator.copy.BlobLocks`: the item is a digest at a registry, the place a repository; here they are
just texts. All of it only spares work. So nothing here fails or waits for Redis: when Redis is away, slow or refuses,
a turn begins at once, knowing nothing, and the worst is that something is brought twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog

from replicator.queue.best_effort import BestEffortRedis, Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue.client import Queue

log = structlog.get_logger("replicator.queue")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


@dataclass(slots=True, eq=False)
class RedisBlobLock:
    """The right to bring one item to any place, while no other process does.

    Attributes:
        item: which one, as its name in Redis.
        place: where it is wanted.
        present: whether it was brought to that place lately enough to be believed.
        mount_sources: other places it was brought to, the latest first.
        token: what the turn is held by in Redis; empty when it is not.
        ready: whether :meth:`mark_present` was called.
    """

    item: str
    place: str
    present: bool = False
    mount_sources: tuple[str, ...] = ()
    token: str = ""
    ready: bool = False

    def mark_present(self) -> None:
        """Tell that the item is at the place now; the others hear of it when the turn ends."""
        self.ready = True


class RedisBlobLocks:
    """Turns through the Redis of a queue, which stays open.

    Args:
        queue: whose Redis, and whose prefix.
        trust: seconds for which it is believed that an item is where it was brought to.
        lease: seconds after which the turn of a process that died is another's.
        patience: seconds that a turn is waited for; then it begins although another has it.
        deadline: seconds that Redis gets for an answer.
        items: how many are remembered in each of two generations; one takes 100 to 500 bytes of Redis.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        trust: float = 3600.0,
        lease: float = 15.0,
        patience: float = 900.0,
        deadline: float = 1.0,
        items: int = 100_000,
    ) -> None:
        self._trust = trust
        self._lease = lease
        self._patience = patience
        self._items = items
        self._listener = Listener(queue, f"{queue.prefix}:turns")
        self._questions = BestEffortRedis(queue, deadline=deadline, trouble="turns unavailable")

    @contextlib.asynccontextmanager
    async def hold(self, registry: str, repository: str, digest: str) -> AsyncIterator[RedisBlobLock]:
        """Wait for the turn to bring a digest to a repository, and have it for as long as the context lasts.

        The turn is over the registry and the digest: whoever has it may bring the digest to any repository there.
        Nothing is waited for when the digest is known to be in the repository. It raises nothing of its own.
        """
        turn = await self._begin(_item(registry, digest), repository)
        keeper = self._questions.start(self._keep(turn))
        try:
            yield turn
        finally:
            keeper.cancel()
            if turn.token or turn.ready:
                await self._questions.ask(
                    "turn_end", turn.item, turn.place if turn.ready else "", turn.token, self._items
                )

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget that a digest is in a repository, because the registry contradicted it. It raises nothing."""
        await self._questions.ask("turn_forget", _item(registry, digest), repository)

    async def _begin(self, item: str, place: str) -> RedisBlobLock:
        """Take the turn when it is free, unless there is no need to; or begin without it."""
        turn, held = await self._take(item, place)
        if not held:
            return turn
        clock, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
        last = clock() + self._patience
        with self._listener.subscribed(item) as ended:
            while held and (left := last - clock()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await ended.wait()
                ended.clear()
                pause = min(pause * 1.5, _LONGEST_PAUSE)
                turn, held = await self._take(item, place)
        if held:
            log.info("turn not waited for", item=item, place=place, waited_seconds=round(self._patience))
        return turn

    async def _take(self, item: str, place: str) -> tuple[RedisBlobLock, bool]:
        """Ask for the turn; tell whether another has it."""
        turn = RedisBlobLock(item, place, token=uuid4().hex)
        times = (int(self._lease * 1000), int(self._trust * 1000))
        question = self._questions.send("turn_begin", item, place, turn.token, *times, self._items)
        try:
            reply = await self._questions.answer(question)
        except asyncio.CancelledError:
            self._questions.start(self._give_back(question, turn))
            raise
        if reply is None:
            # The token stays: the turn may have been taken without the answer being heard.
            return turn, False
        state, *places = [part.decode(errors="replace") for part in reply]
        turn.present = state == "here"
        turn.mount_sources = tuple(places)
        if state != "taken":
            turn.token = ""
        return turn, state == "held"

    async def _give_back(self, question: asyncio.Task[Any], turn: RedisBlobLock) -> None:
        """End a turn that nobody wants any more, once it has been taken."""
        await self._questions.answer(question)
        await self._questions.ask("turn_end", turn.item, "", turn.token, self._items)

    async def _keep(self, turn: RedisBlobLock) -> None:
        """Renew the turn until cancelled, or until it is lost: then it goes on, and may be done twice."""
        while turn.token:
            await asyncio.sleep(self._lease / 3)
            if await self._questions.ask("turn_renew", turn.item, turn.token, int(self._lease * 1000)) == 0:
                log.debug("turn lost", item=turn.item, place=turn.place)
                return


def _item(registry: str, digest: str) -> str:
    """Give a short name for a digest at a registry: names of images have no bound that suits a key."""
    return hashlib.sha256(f"{registry} {digest}".encode()).hexdigest()[:32]
