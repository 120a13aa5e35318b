"""The program as its users run it: a process of its own, with a command line and an environment.

Nearly every test gets a fork of a process that has the program imported (`tests.forkserver`); where loading it is what
a test is about, ``program=PROGRAM`` starts an interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.forkserver import Forked, fork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

TOKEN = "webhook-token-of-the-tests"
PROGRAM = (sys.executable, "-m", "replicator")
Process = asyncio.subprocess.Process | Forked
_ROOT = Path(__file__).resolve().parent.parent


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without settings of its own, and with these; without the scheduled reconcile."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    return {
        **inherited,
        "PYTHONPATH": str(_ROOT),
        "PYTHONWARNINGS": "default",
        "COLUMNS": "200",
        "REPLICATOR_SECRETS_DIR": "/nonexistent",
        "REPLICATOR_RECONCILE": "off",
        "REPLICATOR_SWEEP": "off",
        "REPLICATOR_DOCKER_CONFIG": "off",
        **settings,
    }


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


async def start(
    *arguments: str | Path,
    cwd: Path,
    settings: Mapping[str, str] | None = None,
    stdin: str = "",
    stdout: int | None = PIPE,
    stderr: int | None = PIPE,
    program: Sequence[str] | None = None,
) -> Process:
    """Start the program.

    Args:
        arguments: its command line.
        cwd: where it runs, and keeps its state unless the settings say otherwise.
        settings: variables beside those of `environment`.
        stdin: what it can read.
        stdout: a descriptor, PIPE, or None for this process's own.
        stderr: the same, or STDOUT.
        program: `PROGRAM`, or another interpreter's; None for a fork, which costs a hundredth (`tests.forkserver`).
    """
    command = [str(argument) for argument in arguments]
    variables = environment(**{"REPLICATOR_STATE_DIR": str(cwd / "state"), **(settings or {})})
    if program is None:
        return await fork(*command, cwd=cwd, env=variables, stdin=stdin.encode(), stdout=stdout, stderr=stderr)
    with tempfile.TemporaryFile() as readable:
        readable.write(stdin.encode())
        readable.seek(0)
        return await asyncio.create_subprocess_exec(
            *program, *command, stdin=readable, stdout=stdout, stderr=stderr, cwd=cwd, env=variables, limit=1 << 20
        )


@asynccontextmanager
async def begun(*arguments: str | Path, cwd: Path, **how: Any) -> AsyncIterator[Process]:
    """Have a command run that a test interrupts; it is killed afterwards if it still runs. For more, see `start`."""
    process = await start(*arguments, cwd=cwd, **how)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def replicator(*arguments: str | Path, cwd: Path, timeout: float = 60, **how: Any) -> Ended:
    """Run a command to its end; for more, see `start`."""
    async with begun(*arguments, cwd=cwd, **how) as process, asyncio.timeout(timeout):
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


@dataclass
class Serving:
    """A long-running ``replicator``.

    Attributes:
        process: its process.
        lines: its log so far, a mapping a line; a line that is not JSON has the key ``text``.
    """

    process: Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def address(self) -> str:
        """``host:port`` of its webhook."""
        return next(str(line["address"]) for line in self.lines if line.get("event") == "listening")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address}"

    def said(self, event: str, **values: Any) -> list[dict[str, Any]]:
        """The log lines of ``event`` that have these values."""
        return [
            line
            for line in self.lines
            if line.get("event") == event and all(line.get(name) == value for name, value in values.items())
        ]

    async def until(self, event: str, count: int = 1, timeout: float = 30, **values: Any) -> list[dict[str, Any]]:
        """Wait until it has logged ``event`` so often; fail if it ends first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._news:
                await self._news.wait_for(lambda: len(self.said(event, **values)) >= count or self.said("(end)"))
        found = self.said(event, **values)
        assert len(found) >= count, f"it ended, or {timeout:g} s went by, before it said {event!r}: {self.lines}"
        return found

    async def read(self) -> None:
        """Collect its log until it ends."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            try:
                content = json.loads(line)
            except ValueError:
                content = {"text": line.decode().rstrip()}
            async with self._news:
                self.lines.append(content)
                self._news.notify_all()
        async with self._news:
            self.lines.append({"event": "(end)"})
            self._news.notify_all()

    async def stop(self, timeout: float = 30) -> int:
        """End it as an operator would; return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(timeout):
            return await self.process.wait()


@asynccontextmanager
async def running(
    command: str,
    *arguments: str | Path,
    cwd: Path,
    ready: str = "listening",
    settings: Mapping[str, str] | None = None,
    program: Sequence[str] | None = None,
) -> AsyncIterator[Serving]:
    """Have ``serve`` or ``worker`` run; it is ended afterwards if it still runs. ``program`` is that of `start`."""
    known = {
        "REPLICATOR_LISTEN": "127.0.0.1:0",
        "REPLICATOR_WEBHOOK_TOKEN": TOKEN,
        "REPLICATOR_LOG_FORMAT": "json",
        **(settings or {}),
    }
    process = await start(command, *arguments, cwd=cwd, settings=known, stdout=None, program=program)
    serving = Serving(process)
    reading = asyncio.create_task(serving.read())
    try:
        await serving.until(ready)
        yield serving
    finally:
        if process.returncode is None:
            try:
                await serving.stop()
            except TimeoutError:
                process.kill()
                await process.wait()
        await reading
