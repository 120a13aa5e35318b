"""The Lua scripts, ready to call: each is one atomic step on the queue, described in ``lua/``."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arq.connections import ArqRedis

_NAMES = (
    "alive",
    "buried",
    "claim",
    "counts",
    "drop_dead",
    "enqueue",
    "heartbeat",
    "letters",
    "notices_begin",
    "notices_end",
    "notices_keep",
    "oldest",
    "ping",
    "reconcile_begin",
    "reconcile_renew",
    "reconcile_show",
    "renew",
    "retry_dead",
    "running",
    "sweep",
    "waiting",
)
_MEMORY_NAMES = ("recall", "remember")
_CHECK_NAMES = ("check_held", "check_note", "confirm")
_CHRONICLE_NAMES = ("finish", "history", "reconcile_end")
_TURN_NAMES = ("turn_begin", "turn_end", "turn_forget", "turn_renew")


class Scripts:
    """The scripts of one installation.

    Args:
        redis: where they run; each is loaded there at its first use, and again after Redis forgot it.
        prefix: the installation's, the first argument of every script.
    """

    def __init__(self, redis: ArqRedis, prefix: str) -> None:
        self._prefix = prefix
        folder = files(__package__) / "lua"

        def script(*names: str) -> Any:
            return redis.register_script("".join((folder / f"{name}.lua").read_text() for name in names))

        self._scripts = {name: script("prelude", name) for name in _NAMES}
        self._scripts |= {name: script("prelude", "chronicle", name) for name in _CHRONICLE_NAMES}
        self._scripts |= {name: script("prelude", "generations", name) for name in _MEMORY_NAMES}
        self._scripts |= {name: script("prelude", "generations", "checks", name) for name in _CHECK_NAMES}
        self._scripts |= {name: script("prelude", "generations", "known", name) for name in _TURN_NAMES}

    async def run(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run the script ``name``; what it takes and gives stands in its file.

        Raises:
            redis.exceptions.RedisError: Redis is away or refuses.
        """
        return await self._scripts[name](args=[self._prefix, *arguments])
