"""A history for the page to show, written into Redis as the program's own scripts write it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tests.queue.conftest import command

if TYPE_CHECKING:
    from replicator.queue import Queue

HARBOR, ACR = "harbor.example.com", "registry.cn-beijing.aliyuncs.com"


def ended(number: int, **more: Any) -> dict[str, Any]:
    """What the history keeps of a copy."""
    return {
        "id": f"{ACR}/mirror/app:{number}",
        "lane": "events",
        "result": "copied",
        "source": f"{HARBOR}/team/app:{number}",
        "rule": f"{HARBOR}/team/**",
        "note": "",
        "error_class": None,
        "bytes": 1_500_000 * number,
        "seconds": 1.25,
        "lag": 2.5,
        "tries": 1,
        **more,
    }


def letter(number: int, **more: Any) -> dict[str, Any]:
    """A dead letter."""
    now = int(time.time() * 1000)
    return {
        "id": f"{ACR}/mirror/dead:{number}",
        "lane": "events",
        "payload": {"source": f"{HARBOR}/team/dead:{number}", "rule": f"{HARBOR}/team/**"},
        "error_class": "permanent",
        "message": "denied: requested access to the resource is denied",
        "tries": 1,
        "first": now - 60_000,
        "last": now - number * 1000,
        **more,
    }


async def remember(queue: Queue, *entries: dict[str, Any], ago: float = 0.0) -> None:
    """Let jobs have ended, the last one ``ago`` seconds ago and each a second after the one before."""
    now = int((time.time() - ago) * 1000)
    for number, entry in enumerate(entries):
        at = now - (len(entries) - 1 - number) * 1000
        await command(queue, "LPUSH", f"{queue.prefix}:history:{entry['lane']}", f"{at} {json.dumps(entry)}")


async def bury(queue: Queue, *letters: dict[str, Any], job: bytes = b"{}") -> None:
    """Have dead letters, each with a stored job."""
    if letters:
        records = [part for one in letters for part in (one["id"], json.dumps(one))]
        await command(queue, "HSET", f"{queue.prefix}:dead", *records)
        jobs = [part for one in letters for part in (one["id"], job)]
        await command(queue, "HSET", f"{queue.prefix}:dead-jobs", *jobs)
        order = [part for one in letters for part in (one["last"], one["id"])]
        await command(queue, "ZADD", f"{queue.prefix}:buried", *order)


async def lag(queue: Queue, *spans: tuple[int, int, float, float]) -> None:
    """Have lags: quarters of an hour ago, number, mean and longest in seconds."""
    quarter = int(time.time() // 900)
    for back, number, mean, longest in spans:
        text = f"{number} {int(mean * number * 1000)} {int(longest * 1000)}"
        await command(queue, "HSET", f"{queue.prefix}:lag", str(quarter - back), text)
