"""A reconciler whose planning fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from replicator.queue import ReconcileState
from replicator.replication import reconciler
from replicator.replication.reconciler import Reconciler
from replicator.schedule import Every

if TYPE_CHECKING:
    import pytest


async def test_a_fault_in_planning_is_logged_and_planning_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = 0
    third = asyncio.Event()

    async def read(_: Any) -> ReconcileState:
        nonlocal faults
        faults += 1
        if faults == 3:
            third.set()
        raise ZeroDivisionError

    monkeypatch.setattr(ReconcileState, "read", read)
    monkeypatch.setattr(reconciler, "_BROKEN_PAUSE", 0.01)
    nothing: Any = None
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(Reconciler(Every(1), nothing, nothing, nothing).run())
        waiting = asyncio.create_task(third.wait())
        done, _ = await asyncio.wait({running, waiting}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
    assert done == {waiting}, "the process that runs the reconciler would have ended"
    assert [(line["event"], line["log_level"]) for line in logs[:2]] == [("reconcile planning broken", "error")] * 2
