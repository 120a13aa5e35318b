"""The container image as its users meet it: `make image-check` builds it, and starts these tests.

`docker` is Docker, or podman under its name. What a user types is typed into a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import struct
import termios
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from replicator import __version__
from tests.docs.walk import CHINESE, ENGLISH, Readme, Until, Walk, follow, steps, two_ends
from tests.queue.servers import free_port
from tests.standins.logins import HARBOR_ADMIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

IMAGE = f"replicator:{__version__}"
USER = 54321
"""Neither root nor the user of the image."""
DEADLINE = 90.0
"""Seconds that any step may take at most, on a machine that is busy."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command line in a terminal.

    Attributes:
        process: its shell's.
        answers: what is typed when a text is shown, once.
    """

    def __init__(self, process: asyncio.subprocess.Process, master: int, answers: dict[str, str]) -> None:
        self.process = process
        self.answers = answers
        self._master = master
        self._shown = b""

    @property
    def said(self) -> str:
        """Its output so far, without colours."""
        return re.sub(r"\r+\n?", "\n", _CONTROL.sub("", self._shown.decode(errors="replace")))

    def read(self) -> None:
        """Take what there is to read."""
        with contextlib.suppress(OSError):  # the other side is closed
            self._shown += os.read(self._master, 1 << 16)
        for question in [question for question in self.answers if question in self.said]:
            self.type(self.answers.pop(question))

    async def ended(self, deadline: float = DEADLINE) -> int:
        """Wait until the command has ended; return its exit code."""
        async with asyncio.timeout(deadline):
            code = await self.process.wait()
        self.read()
        return code

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._master, text.encode())

    async def until(self, event: str, **values: str) -> None:
        """Wait for a line with these words; fail if the command ends first."""
        words = [event, *(f"{name}={value}" for name, value in values.items())]
        ends = time.monotonic() + DEADLINE
        while not any(all(word in line for word in words) for line in self.said.splitlines()):
            waits = self.process.returncode is None and time.monotonic() < ends
            assert waits, f"no line with {words}:\n{self.said}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def terminal(script: str, cwd: Path, **answers: str) -> AsyncIterator[Terminal]:
    """Have bash run a script in a terminal of 200 columns; each answer is typed when its name was shown."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script), cwd=cwd, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
    finally:
        os.close(slave)
    found = Terminal(process, master, answers)
    loop = asyncio.get_running_loop()
    loop.add_reader(master, found.read)
    try:
        yield found
    finally:
        loop.remove_reader(master)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(master)


class DockerWalk(Walk):
    """A walk with the alias that the README gives to users of Docker."""

    alias: str

    async def run(self, command: str) -> str:
        begun = time.monotonic()
        async with terminal(f"{self.alias}\n{command}", self.directory, Password=f"{HARBOR_ADMIN[1]}\r") as shown:
            assert await shown.ended() == 0, f"{command}\n{shown.said}"
            print(f"{time.monotonic() - begun:5.1f} s  {command}")
            return shown.said

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Until]:
        _, command = self.next()
        port = free_port()
        listen = f"--env REPLICATOR_LISTEN=127.0.0.1:{port} --workdir"
        async with terminal(f"{self.alias.replace('--workdir', listen)}\n{command}", self.directory) as shown:
            begun = time.monotonic()
            await shown.until("listening")
            print(f"{time.monotonic() - begun:5.1f} s  {command}")
            self.webhook_at(f"http://127.0.0.1:{port}")
            yield shown.until
            await self.run("replicator status")
            begun = time.monotonic()
            shown.type("\x03")
            assert await shown.ended() == 0, shown.said
            print(f"{time.monotonic() - begun:5.1f} s  Ctrl-C")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("readme", [ENGLISH, CHINESE], ids=["english", "chinese"])
async def test_the_readme_with_docker(readme: Readme, harbor_upstream: str, acr_upstream: str, tmp_path: Path) -> None:
    _, (_, alias), *_ = steps(readme.blocks(readme.install))
    assert alias.startswith("alias replicator='docker run ")
    assert IMAGE in alias
    os.chown(tmp_path, USER, USER)
    async with two_ends(harbor_upstream, acr_upstream) as ends:
        ends.authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        walk = DockerWalk(tmp_path, {}, ends.names, steps(readme.blocks(readme.use)))
        # Another user's id, and the authority of these ends; all else is as it is written.
        alias = alias.replace('"$(id -u)"', str(USER))
        alias = alias.replace("--workdir", "--env SSL_CERT_FILE=/config/authority.pem --workdir")
        walk.alias = f"shopt -s expand_aliases\n{alias}"
        await follow(walk, ends)
