"""The Lua scripts, ready to call: each is one atomic step on the queue, described in ``lua/``."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arq.connections import ArqRedis

_NAMES = (
    "claim",
    "counts",
    "drop_dead",
    "enqueue",
    "finish",
    "heartbeat",
    "ping",
    "renew",
    "retry_dead",
    "running",
    "sweep",
    "waiting",
    "workers",
)


class Scripts:
    """The scripts of one installation.

    Args:
        redis: where they run; each is loaded there at its first use, and again after Redis forgot it.
        prefix: the installation's, the first argument of every script.
    """

    def __init__(self, redis: ArqRedis, prefix: str) -> None:
        self._prefix = prefix
        folder = files(__package__) / "lua"
        prelude = (folder / "prelude.lua").read_text()

        def script(name: str) -> Any:
            return redis.register_script(prelude + (folder / f"{name}.lua").read_text())

        self._scripts = {name: script(name) for name in _NAMES}

    async def run(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run the script ``name``; what it takes and gives stands in its file.

        Raises:
            redis.exceptions.RedisError: Redis is away or refuses.
        """
        return await self._scripts[name](args=[self._prefix, *arguments])
