from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.queue.conftest import prefix, queue, server, short_dir
from tests.server.metrics.conftest import metrics, rules
from tests.standins.event_receiver import EventReceiver, event_receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["metrics", "prefix", "queue", "rules", "server", "short_dir"]


@pytest.fixture
async def receiver() -> AsyncIterator[EventReceiver]:
    async with event_receiver() as running:
        yield running
