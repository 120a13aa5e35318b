"""Requests to Redis that only save work: none fails, and none is waited for longer than a deadline.

Three forms of them: scripts within a deadline (`BestEffortRedis`), items sent in batches a moment later (`Batcher`),
and announcements over pub/sub (`listen`, `Listener`), where a lost message costs no more than the next poll does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

import structlog
from redis.exceptions import NoPermissionError

from replicator.queue.client import BATCH, FAULTS, Queue
from replicator.queue.connection import closed_is_away
from replicator.queue.records import dump_json, load_json
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence

    from redis.asyncio.client import PubSub

log = structlog.get_logger("replicator.queue")

_WARNING_SECONDS = 60.0
_SILENT_DEADLINES = 5
"""Deadlines for which a Redis that did not answer is not asked again: each caller would wait for it."""


class BestEffortRedis:
    """Runs scripts in tasks of their own, and warns at most once a minute when that fails.

    Args:
        queue: whose Redis.
        deadline: seconds that Redis gets for an answer.
        trouble: the event of the warning.
    """

    def __init__(self, queue: Queue, *, deadline: float, trouble: str) -> None:
        self._queue = queue
        self._deadline = deadline
        self._trouble = trouble
        self._tasks: set[asyncio.Task[Any]] = set()
        self._silent_until = 0.0
        self._quiet_until = 0.0

    async def ask(self, script: str, *arguments: str | int) -> Any:
        """Run a script within the deadline.

        Args:
            script: its name; see `Queue.run_script`.
            arguments: its arguments after the prefix.

        Returns:
            The answer; None when there was none in time.
        """
        return await self.answer(self.send(script, *arguments))

    def send(self, script: str, *arguments: str | int) -> asyncio.Task[Any]:
        """Begin to run a script, in a task of its own.

        So it survives when the copy that asked is cancelled; and redis-py, which at times swallows a cancellation while
        it connects, can't swallow that of the copy.
        """
        return self.start(self._run(script, *arguments))

    async def answer(self, request: asyncio.Task[Any]) -> Any:
        """Wait for the answer to a request within the deadline; None when there is none."""
        done, _ = await asyncio.wait({request}, timeout=self._deadline)
        if done:
            return None if request.cancelled() else request.result()
        request.cancel()
        self._silent_until = asyncio.get_running_loop().time() + _SILENT_DEADLINES * self._deadline
        self._warn(f"no answer within {self._deadline:g} s")
        return None

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background; the event loop alone would not keep its task alive."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Cancel what still runs."""
        await cancel_all(self._tasks)

    async def _run(self, script: str, *arguments: str | int) -> Any:
        if asyncio.get_running_loop().time() < self._silent_until:
            return None
        try:
            return await self._queue.run_script(script, *arguments)
        except Exception as error:  # noqa: BLE001 - no error here may make a copy fail
            self._warn(str(error) or type(error).__name__)
            return None

    def _warn(self, error: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + _WARNING_SECONDS
            log.warning(self._trouble, redis=self._queue.where, error=error)


Item = TypeVar("Item")

_MOST = 10 * BATCH


class Batcher(Generic[Item]):
    """Sends items in batches: a moment after the first one came, or once there are 500.

    Args:
        send: sends up to 500; it must raise nothing and end within a deadline of its own. A batch that it can't send
            is lost.
        pause: seconds that the first item waits for others.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[object]], *, pause: float = 1.0) -> None:
        self._send = send
        self._pause = pause
        self._items: list[Item] = []
        self._hurry = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, item: Item) -> None:
        """Send an item soon. It is dropped if 5000 are waiting, or after `aclose`."""
        if self._closed or len(self._items) >= _MOST:
            return
        self._items.append(item)
        if len(self._items) >= BATCH:
            self._hurry.set()
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def aclose(self) -> None:
        """Send the rest, and accept nothing more."""
        self._closed = True
        self._hurry.set()
        if (sending := self._sending) is not None:
            try:
                await asyncio.wait({sending})
            finally:
                await cancel_all({sending})

    async def _send_all(self) -> None:
        while self._items:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._hurry.wait()
            batch, self._items = self._items[:BATCH], self._items[BATCH:]
            if len(self._items) < BATCH and not self._closed:
                self._hurry.clear()
            await self._send(batch)
        self._sending = None


_TELL_SECONDS = 1.0
_MOST_TOLD = 1 << 40
"""Bytes that one message can tell of."""
_PROBE_SECONDS = 15.0
_FORBIDDEN_SECONDS = 60.0


async def listen(
    queue: Queue, channel: str, events: Mapping[str, asyncio.Event], *, forbidden: int = logging.WARNING
) -> None:
    """Set an event whenever its name is announced, until cancelled; and all of them at each new subscription.

    Args:
        queue: whose Redis.
        channel: where the announcements are made.
        events: by name; the mapping may change meanwhile.
        forbidden: level of the log line for a channel that the Redis user may not subscribe to.
    """

    def hear(name: str | None) -> None:
        # Announcements before the subscription are lost, so everybody looks once.
        heard = list(events.values()) if name is None else filter(None, [events.get(name)])
        for event in heard:
            event.set()

    await subscribe(queue, channel, hear, forbidden=forbidden)


async def subscribe(
    queue: Queue, channel: str, hear: Callable[[str | None], None], *, forbidden: int = logging.WARNING
) -> None:
    """Call ``hear`` with every message of a channel, until cancelled; and with None at each new subscription.

    Args:
        queue: whose Redis.
        channel: its name.
        hear: must not raise.
        forbidden: level of the log line for a channel that the Redis user may not subscribe to.
    """
    while True:
        subscription = queue.redis.pubsub()
        pause = 0.2
        try:
            with closed_is_away():
                await subscription.subscribe(channel)
                await _hear(subscription, hear)
        except NoPermissionError as error:
            log.log(forbidden, "queue polled", reason=error, channel=channel)
            pause = _FORBIDDEN_SECONDS
        except FAULTS as error:
            # Not worth a warning: the lanes notice an outage themselves, and a cut connection does no harm.
            log.debug("wake-up connection lost", error=error)
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        await asyncio.sleep(pause)


class Listener:
    """Subscribes to a channel for as long as somebody in this process waits for a name to be announced there.

    Args:
        queue: whose Redis.
        channel: where the announcements are made.
    """

    def __init__(self, queue: Queue, channel: str) -> None:
        self._queue = queue
        self._channel = channel
        self._events: dict[str, asyncio.Event] = {}
        self._waiting: dict[str, int] = {}
        self._listening: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @contextmanager
    def subscribed(self, name: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set when ``name`` is announced, and may be set without."""
        event = self._events.setdefault(name, asyncio.Event())
        self._waiting[name] = self._waiting.get(name, 0) + 1
        if self._listening is None:
            work = listen(self._queue, self._channel, self._events, forbidden=logging.DEBUG)
            self._listening = asyncio.create_task(work)
        try:
            yield event
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._events[name]
            if not self._events:
                self._end(self._listening)
                self._listening = None

    def _end(self, listening: asyncio.Task[None]) -> None:
        ending = asyncio.create_task(cancel_all({listening}))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _hear(subscription: PubSub, hear: Callable[[str | None], None]) -> None:
    """Read messages; return when the connection does not answer a probe."""
    probed = False
    while True:
        message = await subscription.get_message(timeout=_PROBE_SECONDS)
        if message is None:
            # A connection that a firewall has dropped looks idle without end.
            if probed:
                return
            await subscription.ping()
            probed = True
            continue
        probed = False
        if message["type"] == "subscribe":
            hear(None)
        elif message["type"] == "message":
            hear(message["data"].decode(errors="replace"))


class PushNews:
    """News between processes about their pushes in transfer, so that bulk transfers of the others give way.

    A message is a JSON object: ``process``, its sender's id, and ``hosts``: by host, the bytes that went since the
    last one, and whether pushes are under way. None is kept: one that gets lost costs a moment.

    Args:
        queue: whose Redis.
        heard: called with these three for each host in a message of another process; it must not raise.
    """

    def __init__(self, queue: Queue, heard: Callable[[str, int, bool], None]) -> None:
        self._queue = queue
        self._heard = heard
        self._channel = f"{queue.prefix}:pushes"
        self._process = uuid4().hex

    async def tell(self, pushes: Callable[[], Awaitable[Mapping[str, tuple[int, bool]]]]) -> None:
        """Publish the result of ``pushes`` until cancelled; an empty result is not published.

        Args:
            pushes: waits until there is something to tell, and so paces the messages.
        """
        while True:
            if hosts := await pushes():
                message = dump_json({"process": self._process, "hosts": hosts})
                with contextlib.suppress(*FAULTS):
                    async with asyncio.timeout(_TELL_SECONDS):
                        await self._queue.redis.publish(self._channel, message)

    async def hear(self) -> None:
        """Listen to the others, until cancelled."""
        await subscribe(self._queue, self._channel, self._hear_one, forbidden=logging.DEBUG)

    def _hear_one(self, text: str | None) -> None:
        try:
            message = {} if text is None else load_json(text.encode())
            if message.get("process") != self._process:
                for host, (size, goes_on) in message.get("hosts", {}).items():
                    self._heard(host, min(max(0, int(size)), _MOST_TOLD), bool(goes_on))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            log.debug("message not understood", channel=self._channel, error=error)
