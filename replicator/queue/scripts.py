"""The Lua scripts: each is one atomic step on the queue, a named section of a file in ``lua/``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arq.connections import ArqRedis

_FILES = ("jobs", "dead_letters", "looks", "processes", "leaders", "blob_locks", "memory")
_SECTION = re.compile(r"^-- (\w+)(?: with ([\w ]+))? --\n", re.MULTILINE)
"""The head of a section: ``-- name --``, or ``-- name with others --`` where other sections are put in front of it."""


@cache
def sections() -> dict[str, str]:
    """Return every section by name, complete: ``keys.lua``, then the sections it names, then itself."""
    folder = files(__package__) / "lua"
    keys = (folder / "keys.lua").read_text()
    texts: dict[str, str] = {}
    needed: dict[str, list[str]] = {}
    for name in _FILES:
        _, *parts = _SECTION.split((folder / f"{name}.lua").read_text())
        for section, others, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            texts[section] = text
            needed[section] = (others or "").split()
    return {name: "".join([keys, *(texts[other] for other in needed[name]), text]) for name, text in texts.items()}


class Scripts:
    """The scripts of one installation.

    Args:
        redis: where they run; each is loaded there at its first use, and again when Redis has forgotten it.
        prefix: of the installation, the first argument of every script.
    """

    def __init__(self, redis: ArqRedis, prefix: str) -> None:
        self._prefix = prefix
        self._scripts: dict[str, Any] = {name: redis.register_script(text) for name, text in sections().items()}

    async def run(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run ``name``; its section says what it takes and gives.

        Raises:
            redis.exceptions.RedisError: Redis is away or refuses.
        """
        return await self._scripts[name](args=[self._prefix, *arguments])
