"""A Redis whose clock is wrong: a Unix socket in front of a real one that answers TIME itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

_TIME = b"*1\r\n$4\r\nTIME\r\n"


class WrongClock:
    """Passes everything on, but for the time.

    Args:
        path: of the socket.
        target: the real server's socket.
        ahead: seconds that are added to this machine's time.
    """

    def __init__(self, path: Path, target: Path, ahead: float) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._target = target
        self._ahead = ahead
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        up_reader, up_writer = await asyncio.open_unix_connection(self._target)
        answers = asyncio.create_task(_pump(up_reader, writer))
        with contextlib.suppress(OSError):
            # The client waits for each answer, so a command comes whole and alone.
            while command := await reader.read(65536):
                if command == _TIME:
                    now = f"{time.time() + self._ahead:.6f}".split(".")
                    writer.write("".join(["*2\r\n", *(f"${len(each)}\r\n{each}\r\n" for each in now)]).encode())
                else:
                    up_writer.write(command)
        up_writer.close()
        await answers
        writer.close()
        self._connections.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
