from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.server.notify.message import Example, Message, MessageState, Occasion, Origin
from tests.queue.conftest import own_server, prefix, queue, server, short_dir
from tests.standins.chats import Chats, chats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["own_server", "prefix", "queue", "server", "short_dir"]

ORIGIN = Origin("replicator.example.com", "https://replicator.example.com/")
NOW = 1_767_225_600_000


def message(*examples: tuple[str, str], count: int | None = None) -> Message:
    """A message of some dead letters."""
    count = len(examples) if count is None else count
    return Message(
        id="0123",
        occasion=Occasion.DEAD_LETTERS,
        state=MessageState.TROUBLE,
        title=f"replicator: {count} copies failed",
        at=NOW,
        since=NOW - 300_000,
        count=count,
        examples=tuple(Example(*each) for each in examples),
        advice=("Once the cause is fixed, run replicator failures retry --all",),
    )


@pytest.fixture
async def robots() -> AsyncIterator[Chats]:
    async with chats() as running:
        yield running
