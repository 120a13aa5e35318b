"""A fault in counting must not become one of what is counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from types import TracebackType

log = structlog.get_logger("replicator.metrics")

_QUIET_SECONDS = 60.0


class Guard:
    """A context that keeps every exception to itself, and logs one a minute."""

    def __init__(self) -> None:
        self._quiet_until = float("-inf")

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.error("metrics broken", exc_info=error)
        return True
