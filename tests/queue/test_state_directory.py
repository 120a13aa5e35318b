"""The embedded queue's directory: a full disk, deleted or damaged files, an older copy of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import tempfile
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from replicator.queue import Job, Lane, Queue, QueueError, QueueUnavailable, embedded_server, state_directory
from replicator.queue import embedded as module
from tests.queue.conftest import eventually
from tests.queue.test_embedded import gone, queued, server_pid, state_dir

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["state_dir"]


def no_space(**_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def unavailable(queue: Queue) -> str:
    """Wait until the queue is unavailable, and return why."""
    async with asyncio.timeout(20):
        while True:
            try:
                await queue.ping()
            except QueueUnavailable as error:
                return str(error)
            await asyncio.sleep(0.05)


async def test_a_full_disk_is_told_once_and_the_queue_goes_on_when_there_is_room(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.05)
    async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=0.3) as queue:
        queue.fault = state_directory.Faults(state_dir)
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        with monkeypatch.context() as full, capture_logs() as lines:
            full.setattr(tempfile, "TemporaryFile", no_space)
            # The server ends by itself when it can't write its file.
            os.kill(await server_pid(url), signal.SIGKILL)
            assert re.match(r"STATE_DIR is full: \d+ bytes free in ", await unavailable(queue))
            await asyncio.sleep(0.5)
            # Another process is told the same, and not that a healthy one be ended.
            with pytest.raises(QueueError, match="STATE_DIR is full"):
                async with embedded_server(state_dir):
                    pass
        ended = [line for line in lines if line["event"].startswith("embedded queue")]
        assert [(line["event"], line["log_level"]) for line in ended] == [("embedded queue ended", "error")]
        assert "STATE_DIR is full" in ended[0]["error"]

        async def back() -> bool:
            with contextlib.suppress(QueueUnavailable):
                return await queued(queue) == 1
            return False

        await eventually(back)


@pytest.mark.parametrize("how", ["directory", "content"])
async def test_a_directory_that_is_deleted_under_its_server_is_noticed(
    state_dir: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.05)
    async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=0.3) as queue:
        queue.fault = state_directory.Faults(state_dir)
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        pid = await server_pid(url)
        if how == "directory":
            shutil.rmtree(state_dir)
            assert (await unavailable(queue)).startswith("STATE_DIR was deleted: ")
            state_dir.mkdir()
        else:
            for each in state_dir.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        await gone(pid)

        async def empty() -> bool:
            with contextlib.suppress(QueueUnavailable):
                return await queued(queue) == 0
            return False

        await eventually(empty)
        assert (state_dir / "appendonlydir").is_dir()


async def test_a_server_that_does_not_start_says_why(state_dir: Path) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
    manifest = next((state_dir / "appendonlydir").glob("*.manifest"))
    manifest.write_text("this is no manifest\n")
    with pytest.raises(QueueError, match=r"(?i)manifest"):
        async with embedded_server(state_dir):
            pass


async def test_a_file_torn_by_a_crash_does_not_keep_it_from_starting(state_dir: Path) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
    with next((state_dir / "appendonlydir").glob("*.incr.aof")).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1")
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        assert await queued(queue) == 1
