"""Questions to Redis whose answers only spare work: none fails, and none is waited for longer than a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from replicator.cancelling import cancel_all

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from replicator.queue.client import Queue

log = structlog.get_logger("replicator.queue")

_WARNING_SECONDS = 60.0
_SILENT_DEADLINES = 5
"""Deadlines for which a Redis that did not answer is not asked again: each who asks would wait for it."""


class Questions:
    """Runs scripts in tasks of their own, and warns once a minute when Redis does not do it.

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
            arguments: what it takes after the prefix.

        Returns:
            The answer; None when Redis did not do it in time.
        """
        return await self.answer(self.send(script, *arguments))

    def send(self, script: str, *arguments: str | int) -> asyncio.Task[Any]:
        """Begin to run a script.

        In a task of its own it goes on when the copy that asked is cancelled, and redis-py, which swallows a
        cancellation at times while it connects, can't swallow that of the copy.
        """
        return self.start(self._run(script, *arguments))

    async def answer(self, question: asyncio.Task[Any]) -> Any:
        """Wait for the answer to what was sent, within the deadline; None when there is none."""
        done, _ = await asyncio.wait({question}, timeout=self._deadline)
        if done:
            return None if question.cancelled() else question.result()
        question.cancel()
        self._silent_until = asyncio.get_running_loop().time() + _SILENT_DEADLINES * self._deadline
        self._warn(f"no answer within {self._deadline:g} s")
        return None

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background, and keep it from being collected."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """End what still runs."""
        await cancel_all(self._tasks)

    async def _run(self, script: str, *arguments: str | int) -> Any:
        if asyncio.get_running_loop().time() < self._silent_until:
            return None
        try:
            return await self._queue.run_script(script, *arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, a copy must not fail for it
            self._warn(str(error) or type(error).__name__)
            return None

    def _warn(self, error: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + _WARNING_SECONDS
            log.warning(self._trouble, redis=self._queue.where, error=error)
