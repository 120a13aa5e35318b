"""A queue that was put back to an older state: a reconcile is due at once, and nothing observed before is trusted."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from replicator.queue import Findings, Job, Lane, Observations, Reconciles, ReconcileState, observations
from replicator.queue.state_directory import Mark
from replicator.replication.reconciler import next_run
from replicator.schedule import Every
from replicator.server.runtime import open_queue
from replicator.settings import Settings
from tests.queue.conftest import PATIENCE, eventually, prefix, queue, server, short_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from replicator.queue import Queue

__all__ = ["prefix", "queue", "server", "short_dir"]

NOTICED = "queue put back to an older state"
PLACE = "r.example/team/app:v1"


@asynccontextmanager
async def opened(state_dir: Path) -> AsyncIterator[tuple[Queue, bool]]:
    """Open the embedded queue; tell whether an older state was noticed."""
    with capture_logs() as lines:
        async with open_queue(Settings(state_dir=state_dir)) as queue:
            # On a busy machine the first look may have been in vain.
            mark = Mark(state_dir, queue.prefix)

            async def looked() -> bool:
                return mark.read() is not None

            await eventually(looked)
            yield queue, any(line["event"] == NOTICED for line in lines)


async def reconciled(queue: Queue) -> None:
    """Complete a reconcile, and observe a destination."""
    lease = await Reconciles(queue).begin((await ReconcileState.read(queue)).last_started)
    assert lease is not None
    await lease.end(Findings(), "digest")
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        checks.record(PLACE, "wanted", time.time())


async def is_due(queue: Queue) -> bool:
    """Tell whether a reconcile is due; then nothing observed may be trusted either."""
    state = await ReconcileState.read(queue)
    due = next_run(Every(86400), state) <= state.now
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        assert await checks.confirmed([(PLACE, "wanted")], 3600) == [not due]
    assert state.covers("digest", state.now + timedelta(days=1)) == (not due)
    return due


async def enqueue(queue: Queue, name: str) -> None:
    await queue.enqueue([Job(f"r.example/{name}", {})], Lane.EVENTS)


async def test_a_restart_is_no_older_state(tmp_path: Path) -> None:
    for number in range(3):
        async with opened(tmp_path / "s") as (queue, older):
            assert not older
            if number:
                assert not await is_due(queue)
            await enqueue(queue, f"a:{number}")
            await reconciled(queue)


@pytest.mark.parametrize("what", ["directory", "data", "copied over"])
async def test_a_directory_that_is_restored_from_a_backup_is_noticed_once(tmp_path: Path, what: str) -> None:
    state, backup = tmp_path / "s", tmp_path / "backup"
    async with opened(state) as (queue, _):
        await enqueue(queue, "a:1")
        await reconciled(queue)
    shutil.copytree(state, backup, ignore=shutil.ignore_patterns("*.sock"))
    async with opened(state) as (queue, _):
        await enqueue(queue, "a:2")
        await reconciled(queue)
    if what == "directory":
        shutil.rmtree(state)
        shutil.copytree(backup, state)
    else:
        shutil.rmtree(state / "appendonlydir")
        shutil.copytree(backup / "appendonlydir", state / "appendonlydir")
    if what == "copied over":
        (state / "queue.mark").unlink()
    async with opened(state) as (queue, older):
        assert older
        assert await is_due(queue)
        await reconciled(queue)
    async with opened(state) as (queue, older):
        assert not older
        assert not await is_due(queue)


async def test_a_redis_that_is_restored_or_has_lost_its_last_writes_is_noticed_while_it_runs(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "_LOOK_SECONDS", 0.05)
    for number in range(3):
        await enqueue(queue, f"a:{number}")
    await reconciled(queue)
    with capture_logs() as lines:
        async with observations.watch_for_older_state(queue), observations.watch_for_older_state(queue):
            await asyncio.sleep(0.3)
            assert not await is_due(queue)
            assert not lines
            await queue.redis.set(f"{queue.prefix}:seq", 2)

            async def noticed() -> bool:
                return bool(lines)

            await eventually(noticed)
            assert await is_due(queue)
            await reconciled(queue)
            await asyncio.sleep(0.3)
            assert not await is_due(queue), "one notice is enough, however many processes knew better"
    assert [line["event"] for line in lines] == [NOTICED]
    # No number is given twice.
    assert int(await queue.redis.get(f"{queue.prefix}:seq") or 0) == 3
