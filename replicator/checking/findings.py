"""What a probe is, and what it finds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from replicator.advice import explained
from replicator.errors import ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

PROBE_SECONDS = 10.0
"""What one probe may take."""


class State(StrEnum):
    """How a probe ended."""

    OK = "ok"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer.

    Attributes:
        name: what was tried, e.g. ``push``.
        subject: at what: a host, a rule, a repository.
        state: how it ended.
        message: what was seen; of a failure, with what to do.
    """

    name: str
    subject: str
    state: State
    message: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to try.

    Attributes:
        name: what is tried.
        subject: at what.
        run: tries it; what it raises of this package's errors becomes a failure.
    """

    name: str
    subject: str
    run: Callable[[], Awaitable[Iterable[Finding]]]


async def tried(probe: Probe, seconds: float = PROBE_SECONDS) -> list[Finding]:
    """Run a probe within its deadline, in seconds; return what it found, or its failure."""
    try:
        async with asyncio.timeout(seconds):
            return list(await probe.run())
    except ReplicatorError as error:
        message = "; ".join([explained(error), *getattr(error, "__notes__", ())])
    except TimeoutError:
        message = f"not answered within {seconds:g} s: is it reachable from here, and not overloaded?"
    return [Finding(probe.name, probe.subject, State.FAILED, message)]
