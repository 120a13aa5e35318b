"""A line of a given rate and round trip before a server: a relay for TCP.

    async with line(registry, rate=2 * MIB, round_trip=0.1) as front:
        ...  # http://{front} leads to the registry; front.sent and front.received are the bytes so far

All connections share the rate, each direction for itself, as flows share a bottleneck: a piece of each in turn. The
relay keeps next to nothing in buffers, so a sender notices the line at once. `apart` runs one as a process of its own,
and so does ``python -m tests.standins.line HOST``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_BUFFERS = 512
"""A socket's buffer takes the bytes of such a part of a second, doubled by Linux (socket(7), SO_RCVBUF). A client's
kernel takes many times as much ahead, and 4 MiB where nothing is asked for."""
_BUFFER = (4 * 1024, 64 * 1024)
"""Bytes of it: the fewest and the most."""
_SEGMENT = 1460
"""Bytes of a segment, as on Ethernet. With the loopback's, 64 KiB, a client's kernel takes ten times as much ahead."""
_PIECES = 128
"""Pieces a second, at the most, into which the rate is cut."""
_PIECE = (2 * 1024, 64 * 1024)
"""Bytes of a piece: the fewest and the most."""
_LATE = 0.2
_WINDOW = 1024 * 1024
_ROOT = Path(__file__).resolve().parent.parent.parent


class Line:
    """The line; `line` makes one. ``str()`` gives the address to connect to.

    Attributes:
        host: ``127.0.0.1:PORT``, where it listens.
        round_trip: seconds; may be changed at any time.
        window: bytes of a connection that are under way at once, in each direction.
        sent: bytes from clients that have passed, headers and all.
        received: bytes for clients that have passed.
        connections: how many were accepted.
        late: seconds that a late timer may catch up, so that a busy machine does not make the line slower. A test that
            takes the bytes that pass for the time sets 0: what it measures is busy with it.
    """

    def __init__(self, host: str, upstream: str, rate: float | None, round_trip: float, window: int) -> None:
        self.host = host
        self.round_trip = round_trip
        self.window = window
        self.sent = 0
        self.received = 0
        self.connections = 0
        self.late = _LATE
        self._upstream = upstream
        self._rate = rate
        self._moves = asyncio.Event()
        self._free = {True: 0.0, False: 0.0}
        self._open: set[asyncio.Task[None]] = set()
        self.rate = rate

    def __str__(self) -> str:
        return self.host

    @property
    def rate(self) -> float | None:
        """Bytes a second in each direction; None is without a limit, and at 0 nothing passes."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        self._rate = rate
        if rate == 0:
            self._moves.clear()
        else:
            self._moves.set()

    def cut(self) -> None:
        """Break every connection, as a reset does."""
        for connection in self._open:
            connection.cancel()

    async def accept(self, listener: socket.socket) -> None:
        """Take connections until it is cancelled, and break them then."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                client, _ = await loop.sock_accept(listener)
                self.connections += 1
                connection = asyncio.create_task(self._connect(client))
                self._open.add(connection)
                connection.add_done_callback(self._open.discard)
        finally:
            left = list(self._open)
            self.cut()
            await asyncio.gather(*left, return_exceptions=True)

    async def _connect(self, client: socket.socket) -> None:
        server = _socket(self._rate)
        try:
            address, _, port = self._upstream.rpartition(":")
            with contextlib.suppress(OSError, ExceptionGroup):
                # The handshake has its round trip too.
                await asyncio.sleep(self.round_trip)
                await asyncio.get_running_loop().sock_connect(server, (address, int(port)))
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(self._carry(client, server, up=True))
                    ways.create_task(self._carry(server, client, up=False))
                # Both have said that they are done, so nothing is lost by an orderly end.
                client.close()
                server.close()
        finally:
            for end in (client, server):
                _reset(end)

    async def _carry(self, sender: socket.socket, receiver: socket.socket, *, up: bool) -> None:
        """Bring what one end sends to the other, piece by piece, until it sends no more."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        room = _Room(self.window)

        async def send() -> None:
            piece = b"first"
            while piece:
                await room.free()
                piece = await loop.sock_recv(sender, self._piece())
                room.take(len(piece))
                await self._pass(len(piece), up=up)
                under_way.put_nowait((loop.time() + self.round_trip / 2, piece))

        async def arrive() -> None:
            while True:
                due, piece = await under_way.get()
                if (early := due - loop.time()) > 0:
                    await asyncio.sleep(early)
                if not piece:
                    receiver.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(receiver, piece)
                # The sender hears of it half a round trip later.
                loop.call_later(self.round_trip / 2, room.give, len(piece))

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            group.create_task(arrive())

    def _piece(self) -> int:
        fewest, most = _PIECE
        return most if self._rate is None else int(min(max(self._rate / _PIECES, fewest), most))

    async def _pass(self, size: int, *, up: bool) -> None:
        """Wait until so many bytes have had their time on the line."""
        await self._moves.wait()
        if self._rate and size:
            now = asyncio.get_running_loop().time()
            self._free[up] = max(self._free[up], now - self.late) + size / self._rate
            if (early := self._free[up] - now) > 0:
                await asyncio.sleep(early)
        if up:
            self.sent += size
        else:
            self.received += size


class _Room:
    """What is left of a connection's window."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._some = asyncio.Event()
        self._some.set()

    async def free(self) -> None:
        await self._some.wait()

    def take(self, size: int) -> None:
        self._left -= size
        if self._left <= 0:
            self._some.clear()

    def give(self, size: int) -> None:
        self._left += size
        if self._left > 0:
            self._some.set()


@asynccontextmanager
async def line(
    upstream: str, *, rate: float | None = None, round_trip: float = 0.0, window: int = _WINDOW
) -> AsyncIterator[Line]:
    """Have a line before a server for as long as the context lasts.

    Args:
        upstream: ``127.0.0.1:PORT`` of the server.
        rate: bytes a second in each direction, for all connections together; None is without a limit.
        round_trip: seconds that a question and its answer take longer; a new connection takes one more.
        window: bytes of a connection that are under way at once, in each direction: with a long round trip one
            connection alone has no more than this in that time.
    """
    listener = _socket(rate)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        front = Line("{}:{}".format(*listener.getsockname()), upstream, rate, round_trip, window)
        accepting = asyncio.create_task(front.accept(listener))
        try:
            yield front
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)


class Apart:
    """A line in a process of its own; `apart` makes one. ``str()`` gives the address to connect to.

    Attributes:
        host: ``127.0.0.1:PORT``, where it listens.
    """

    def __init__(self, host: str, process: asyncio.subprocess.Process) -> None:
        self.host = host
        self._process = process
        self._turn = asyncio.Lock()

    def __str__(self) -> str:
        return self.host

    async def passed(self) -> tuple[int, int]:
        """Ask how many bytes were sent and received so far."""
        said = await self._ask({})
        return said["sent"], said["received"]

    async def change(self, rate: float | None) -> None:
        """Give the line another rate."""
        await self._ask({"rate": rate})

    async def _ask(self, question: dict[str, float | None]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            answer: dict[str, int] = json.loads(await self._process.stdout.readline())
        return answer


@asynccontextmanager
async def apart(
    upstream: str, *, rate: float | None = None, round_trip: float = 0.0, window: int = _WINDOW
) -> AsyncIterator[Apart]:
    """Have a line whose pace does not depend on what else this process does; the arguments are those of `line`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, upstream, "--round-trip", str(round_trip), "--window", str(window)),
        *(() if rate is None else ("--rate", str(rate))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Apart(json.loads(await process.stdout.readline())["host"], process)
    finally:
        process.stdin.close()
        await process.wait()


def _socket(rate: float | None) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    # Those that a listener accepts inherit these.
    if rate is not None:
        fewest, most = _BUFFER
        size = int(min(max(rate / _BUFFERS, fewest), most))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(size, _PIECE[1]))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _reset(end: socket.socket) -> None:
    """Close a socket so that its other end hears of a break; does nothing to one that is closed."""
    if end.fileno() != -1:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


async def _serve(upstream: str, rate: float | None, round_trip: float, window: int) -> None:
    """Print where it listens, answer each line of the input with the totals, and end with the input."""
    async with line(upstream, rate=rate, round_trip=round_trip, window=window) as front:
        print(json.dumps({"host": front.host}), flush=True)
        while question := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(question)
            if "rate" in asked:
                front.rate = asked["rate"]
            totals = {"sent": front.sent, "received": front.received, "connections": front.connections}
            print(json.dumps(totals), flush=True)


def main() -> None:
    """Run a line until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.standins.line", description=__doc__)
    parser.add_argument("upstream", help="127.0.0.1:PORT of the server")
    parser.add_argument("--rate", type=float, help="bytes a second in each direction")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument("--window", type=int, default=_WINDOW, help="bytes under way on a connection")
    given = parser.parse_args()
    with contextlib.suppress(PermissionError):
        # What it is there for, a steady pace, suffers from every wait for a processor.
        os.nice(-10)
    asyncio.run(_serve(given.upstream, given.rate, given.round_trip, given.window))


if __name__ == "__main__":
    main()
