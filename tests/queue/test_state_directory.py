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
from typing import TYPE_CHECKING, BinaryIO

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
    async with asyncio.timeout(60):
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
    async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=4) as queue:
        queue.fault = state_directory.Faults(state_dir)
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        with monkeypatch.context() as full, capture_logs() as lines:
            full.setattr(tempfile, "TemporaryFile", no_space)
            # The server ends by itself when it can't write its file.
            os.kill(await server_pid(url), signal.SIGKILL)
            assert re.match("STATE_DIR is full: no space left on device; ", await unavailable(queue))
            await asyncio.sleep(0.5)
            # Another process is told the same, and not that a healthy one be ended.
            with pytest.raises(QueueError, match="STATE_DIR is full"):
                async with embedded_server(state_dir):
                    pass
        ended = [line for line in lines if line["event"].startswith("embedded queue")]
        assert [(line["event"], line["log_level"]) for line in ended] == [("embedded queue ended", "error")]
        assert "STATE_DIR is full" in ended[0]["reason"]

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
    async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=4) as queue:
        queue.fault = state_directory.Faults(state_dir)
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        pid = await server_pid(url)
        if how == "directory":
            shutil.rmtree(state_dir)
            assert (await unavailable(queue)).startswith("STATE_DIR was deleted; ")
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


@pytest.mark.parametrize("damage", ["zeroed", "overwritten"])
async def test_a_damaged_end_is_cut_off_and_kept_and_what_is_before_is_there(state_dir: Path, damage: str) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        for number in range(5):
            await queue.enqueue([Job(f"r.example/a:{number}", {})], Lane.EVENTS)
    state_directory.Mark(state_dir, "replicator").write(5)
    file = next((state_dir / "appendonlydir").glob("*.incr.aof"))
    size = file.stat().st_size
    with file.open("r+b") as writing:
        # A power cut leaves zeros where data was to be, or a part of another file.
        writing.seek(size - 40 if damage == "overwritten" else size)
        writing.write(bytes(4096) if damage == "zeroed" else b"\xff" * 40)
    damaged = file.read_bytes()
    with capture_logs() as lines:
        async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
            # The last enqueue is one command, of which a part is lost.
            assert await queued(queue) == (5 if damage == "zeroed" else 4)
            await queue.enqueue([Job("r.example/b:1", {})], Lane.EVENTS)
    (repaired,) = [line for line in lines if line["event"] == "embedded queue repaired"]
    (kept,) = state_dir.glob("damaged-*.aof")
    assert repaired["kept_in"] == str(kept)
    assert damaged.endswith(kept.read_bytes())
    assert kept.stat().st_size == repaired["cut_off_bytes"]
    assert state_directory.Mark(state_dir, "replicator").read() is None, "everything has to be compared"
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        assert await queued(queue) == (6 if damage == "zeroed" else 5)


async def test_copies_of_damaged_ends_are_bounded(state_dir: Path) -> None:
    state_dir.mkdir()
    file = state_dir / "a.aof"
    for number in range(5):
        file.write_bytes(b"good" + bytes([number]))
        state_directory.repair(state_dir, state_directory.Damage(file, 4, 1))
        assert file.read_bytes() == b"good"
    assert [each.read_bytes() for each in sorted(state_dir.glob("damaged-*"))] == [b"\2", b"\3", b"\4"]


async def test_a_damaged_end_for_whose_copy_there_is_no_room_is_left_alone(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir.mkdir()
    file = state_dir / "a.aof"
    file.write_bytes(b"good" + bytes(1000))

    def copy(_: object, copied: BinaryIO) -> None:
        copied.write(b"a part")
        no_space()

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(QueueError, match="No space left on device; free 1000 bytes"):
        state_directory.repair(state_dir, state_directory.Damage(file, 4, 1000))
    # Each start would leave a part of a copy.
    assert [each.name for each in state_dir.iterdir()] == ["a.aof"]
    assert file.stat().st_size == 1004


async def test_data_without_their_manifest_are_no_empty_queue(state_dir: Path) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
    manifest = next((state_dir / "appendonlydir").glob("*.manifest"))
    away = manifest.rename(state_dir / "away")
    with pytest.raises(QueueError, match="2 data files, but no manifest"):
        async with embedded_server(state_dir):
            pass
    away.rename(manifest)
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        assert await queued(queue) == 1


def test_the_memory_of_the_server_is_a_share_of_what_the_container_has(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"

    def share() -> int:
        return state_directory.memory_for_server(groups, mount)

    assert share() == int(machine * 0.3), "no control groups at all"
    # Version 2: the group itself has no limit, the one above it has.
    (mount / "kube" / "pod").mkdir(parents=True)
    (mount / "kube" / "pod" / "memory.max").write_text("max\n")
    (mount / "kube" / "memory.max").write_text(f"{100 << 20}\n")
    groups.write_text("0::/kube/pod\n")
    assert share() == 30 << 20
    # In a container the path may be the host's, and the mount is the container's own.
    (mount / "memory.max").write_text(f"{50 << 20}\n")
    groups.write_text("0::/elsewhere\n")
    assert share() == 15 << 20
    # Version 1, whose "no limit" is a number.
    (mount / "memory").mkdir()
    (mount / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    groups.write_text("5:cpu,memory:/\n4:pids:/\n")
    assert share() == int(machine * 0.3)
    (mount / "memory" / "memory.limit_in_bytes").write_text(f"{200 << 20}\n")
    assert share() == 60 << 20


async def test_a_flood_is_refused_when_the_memory_is_full_and_what_was_taken_is_there(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "memory_for_server", lambda: 8 << 20)
    taken = 0
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        await queue.redis.execute_command("HSET", f"{queue.prefix}:known:new", "blob", "x" * (1 << 20))
        refused = ""
        while not refused:
            jobs = [Job(f"r.example/a:{taken + n}", {"fill": "x" * 1000}) for n in range(100)]
            try:
                await queue.enqueue(jobs, Lane.EVENTS)
                taken += 100
            except QueueUnavailable as error:
                refused = str(error)
        assert "maxmemory" in refused
        assert not await queue.redis.exists(f"{queue.prefix}:known:new"), "what only saves requests gives way"
        assert taken > 500
        assert await queued(queue) == taken
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        assert await queued(queue) == taken
