"""How a worker stands with Redis: whether it answers, and since when."""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger("replicator.queue")

_BLIP_SECONDS = 0.5
"""A connection that was cut and made anew is not worth a warning."""


class Contact:
    """Remembers outages of Redis, logs their beginning and end, and derives when jobs of the dead may be taken over.

    Args:
        lease: seconds of a lease.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._steady_since = time.monotonic()
        self._down_since: float | None = None
        self._told = False

    def failed(self, error: Exception) -> None:
        """Note that Redis did not answer, or refused."""
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
        elif not self._told and now - self._down_since > _BLIP_SECONDS:
            self._told = True
            log.warning("queue unavailable", error=str(error) or type(error).__name__)

    def succeeded(self) -> None:
        """Note that Redis answered."""
        if self._down_since is None:
            return
        now = time.monotonic()
        if self._told:
            self._told = False
            log.info("queue available", after_seconds=round(now - self._down_since, 1))
        if now - self._down_since > self._lease / 3:
            self._steady_since = now
        self._down_since = None

    @property
    def takeover(self) -> bool:
        """Whether a lapsed lease means that its worker is dead.

        After an outage of Redis long enough for leases to lapse it does not: those who hold them are alive and about
        to renew them. They get half a lease's time for it, as nobody else took the jobs meanwhile.
        """
        return self._down_since is None and time.monotonic() - self._steady_since > self._lease / 2
