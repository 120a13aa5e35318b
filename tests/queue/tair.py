"""A proxy with the documented rules of ApsaraDB's and Tair's proxy mode, in front of two real servers as shards.

https://www.alibabacloud.com/help/en/redis/support/usage-of-lua-scripts: a script is sent with at least one key, and
all its keys are in one slot; unless ``script_check_enable`` is 0, each key of ``redis.call`` is written ``KEYS[i]``.
WAIT and CONFIG are not served, and INFO says nothing of replication.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Self

from redis.crc import key_slot

from tests.queue.servers import RedisServer, free_port

if TYPE_CHECKING:
    from pathlib import Path

_KEYLESS = {"PING", "TIME", "CLIENT", "SELECT", "AUTH", "HELLO", "INFO", "SCRIPT"}
_OTHER_KEYS = re.compile(r"redis\.p?call\(\s*'\w+'\s*,\s*(?!KEYS\[\d)")
_SLOTS = 16384
_BAD = "bad lua script for redis cluster, all the keys that the script uses should be passed using the KEYS array"


class TairProxy:
    """The proxy; a context with its two shards.

    Args:
        directory: of the shards.
        script_check: the parameter ``script_check_enable``.
    """

    def __init__(self, directory: Path, *, script_check: bool = False) -> None:
        self.shards = [RedisServer(directory / f"s{i}") for i in range(2)]
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._script_check = script_check
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for shard in self.shards:
            await asyncio.to_thread(shard.start)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for shard in self.shards:
            shard.kill()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        shards = [await asyncio.open_unix_connection(shard.socket) for shard in self.shards]
        try:
            while words := await _read_command(reader):
                name = words[0].upper().decode()
                if (refusal := self._refuses(name, words)) is not None:
                    writer.write(b"-ERR %s\r\n" % refusal.encode())
                    continue
                if name in ("DEL", "EXISTS"):
                    numbers = [await _ask(*self._shard(shards, key), [words[0], key]) for key in words[1:]]
                    writer.write(b":%d\r\n" % sum(int(number[1:]) for number in numbers))
                    continue
                chosen = self._shard(shards, _first_key(name, words))
                if name == "SUBSCRIBE":
                    await _join(reader, writer, *chosen, words)
                    return
                answer = await _ask(*chosen, words)
                if name in ("SCRIPT", "HELLO", "AUTH", "SELECT"):
                    await _ask(*shards[1], words)
                if name == "INFO":
                    answer = _without_replication(answer)
                writer.write(answer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or the test has ended
        finally:
            for each in (writer, *(up for _, up in shards)):
                each.close()
            self._tasks.discard(task)

    def _shard(
        self, shards: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]], key: bytes | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return shards[0 if key is None else key_slot(key) * len(shards) // _SLOTS]

    def _refuses(self, name: str, words: list[bytes]) -> str | None:
        if name in ("WAIT", "CONFIG"):
            return f"unknown command '{name}'"
        if name in ("EVAL", "EVALSHA") and int(words[2]) < 1:
            return "for redis cluster, eval/evalsha number of keys can't be negative or zero"
        if name in ("EVAL", "EVALSHA") and len({key_slot(key) for key in words[3 : 3 + int(words[2])]}) > 1:
            return "eval/evalsha command keys must be in same slot"
        script = words[1] if name == "EVAL" else words[2] if name == "SCRIPT" and words[1].upper() == b"LOAD" else b""
        if self._script_check and _OTHER_KEYS.search(script.decode()):
            return _BAD
        return None


def _first_key(name: str, words: list[bytes]) -> bytes | None:
    if name in _KEYLESS:
        return None
    if name in ("EVAL", "EVALSHA"):
        return words[3]
    if name == "XREAD":
        return words[[word.upper() for word in words].index(b"STREAMS") + 1]
    return words[1]


async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
    head = await reader.readline()
    words = []
    for _ in range(int(head[1:] or 0)):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, words: list[bytes]) -> bytes:
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    return await _read_answer(reader)


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n")
    kind, number = head[:1], head[1:-2]
    if kind in (b"$", b"=") and int(number) >= 0:
        return head + await reader.readexactly(int(number) + 2)
    if kind in (b"*", b"~", b">", b"%") and int(number) > 0:
        several = int(number) * (2 if kind == b"%" else 1)
        return head + b"".join([await _read_answer(reader) for _ in range(several)])
    return head


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    up_reader: asyncio.StreamReader,
    up_writer: asyncio.StreamWriter,
    words: list[bytes],
) -> None:
    """Subscribe at the shard of the channel's own slot, and pass on all that follows."""
    writer.write(await _ask(up_reader, up_writer, words))

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    with contextlib.suppress(OSError):
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))


def _without_replication(answer: bytes) -> bytes:
    text = answer.partition(b"\r\n")[2][:-2].removeprefix(b"txt:")
    text = re.sub(rb"# Replication\r\n(?:[^#\r]\S*\r\n)*", b"", text)
    return b"$%d\r\n%s\r\n" % (len(text), text)
