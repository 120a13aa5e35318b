"""An old and a new process share one queue during an upgrade: each reads and works off what the other wrote.

``recorded.json`` holds all keys of an installation, as a version before the records became types left them in Redis
while it ran: jobs queued, running, waiting and dead in both lanes, the history, a reconcile under way, a leader of the
notices, blob locks and memories. Its times are shifted to now when it is restored.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import (
    DeadLetters,
    Description,
    Findings,
    History,
    Job,
    Lane,
    LoadedConfig,
    Notices,
    Observations,
    Progress,
    Queue,
    Reconciles,
    ReconcileState,
    RedisSelectionStore,
    RetryPolicy,
    Running,
    announced,
    processes,
)
from tests.queue.conftest import PATIENCE, Recorder, blob_locks, command, eventually, idle, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.queue.servers import RedisServer

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())
PREFIX = "recorded"
D = "registry.cn-beijing.aliyuncs.com/team/"
SOURCE = "harbor.example.com/team/"
QUARTER_MS = 900_000


async def restore(queue: Queue, *, expiry: int) -> None:
    """Put what was recorded into Redis, as if it had just happened; what expires does so after ``expiry`` ms."""
    shift = int(time.time() * 1000) - RECORDED["recorded_ms"]

    def shifted(text: str) -> str:
        return re.sub(r"\b179\d{10}\b", lambda found: str(int(found[0]) + shift), text)

    pipe = queue.redis.pipeline()
    for key, entry in RECORDED["keys"].items():
        match entry["type"], entry["value"]:
            case "string", value:
                pipe.set(key, shifted(value))
            case "hash", value if key.endswith(":lag"):
                pipe.hset(key, mapping={int(name) + shift // QUARTER_MS: text for name, text in value.items()})
            case "hash", value:
                pipe.hset(key, mapping={name: shifted(text) for name, text in value.items()})
            case "zset", value:
                # Scores are times, but for the order of the dead letters.
                pipe.zadd(key, {name: score + (shift if score > 1e12 else 0) for name, score in value.items()})
            case "list", value:
                pipe.rpush(key, *map(shifted, value))
            case "set", value:
                pipe.sadd(key, *value)
            case "stream", value:
                for fields in value:
                    pipe.xadd(key, fields)
        if entry["expires"]:
            pipe.pexpire(key, expiry)
    await pipe.execute()


@pytest.fixture
async def recorded(own_server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(own_server.url, prefix=PREFIX) as queue:
        yield queue


async def test_what_an_older_process_wrote_is_read(recorded: Queue) -> None:
    await restore(recorded, expiry=60_000)
    counts = await recorded.counts()
    assert counts.dead == 2
    assert [(lane.queued, lane.running, lane.waiting) for lane in counts.lanes.values()] == [(1, 1, 1), (1, 1, 1)]

    running = {job.id: job for job in await recorded.running()}
    assert {(job.lane, job.tries, job.bytes_done) for job in running.values()} == {
        (Lane.EVENTS, 1, 4321),
        (Lane.BACKFILL, 1, 4321),
    }
    waiting = {job.id: job for job in await recorded.waiting()}
    assert waiting.keys() == {D + "waits:1", D + "waits:2"}
    assert waiting[D + "waits:2"].message == "the registry answered 503: 服务不可用"
    assert waiting[D + "waits:2"].error_class is ErrorClass.TRANSIENT
    assert all(job.first < job.due for job in waiting.values())

    letters = {letter.id: letter for letter in await DeadLetters(recorded).all()}
    letter = letters[D + "dead:2"]
    assert (letter.lane, letter.error_class, letter.tries) == (Lane.BACKFILL, ErrorClass.PERMANENT, 1)
    assert letter.payload is not None
    assert letter.payload["source"] == SOURCE + "dead:2"
    assert (await Notices(recorded).new_dead_letters(9, 5)).first == (letter,)

    history = await History.read(recorded)
    assert [(entry.id, entry.result, entry.lag) for entry in history.ended if entry.lane is Lane.EVENTS] == [
        (D + "done:1", "copied", 180.007),
        (D + "dead:1", "given up", None),
    ]
    assert [span.number for span in history.lags] == [1]
    assert [result.findings.complete for result in history.reconciles] == [False, True]


async def test_processes_of_an_older_version_are_seen(recorded: Queue) -> None:
    await restore(recorded, expiry=60_000)
    (process,) = await processes(recorded)
    assert (process.command, process.version, process.pid) == ("serve", "0.9", 6218)
    assert process.problem == "rules.yaml:3: no such rule"
    (worker,) = await recorded.workers()
    assert worker.concurrency == {Lane.EVENTS: 4, Lane.BACKFILL: 4}
    assert not worker.stopping


async def test_leaders_and_locks_of_an_older_process_are_respected_until_they_expire(recorded: Queue) -> None:
    await restore(recorded, expiry=600)
    state = await ReconcileState.read(recorded)
    assert state.last is not None
    assert state.last.findings == Findings(listed=3, failed=1, error="harbor.example.com does not answer")
    assert state.running is not None
    assert (state.running.pid, state.running.progress) == (6218, Progress(listed=5, done=4))
    assert await Reconciles(recorded).begin(state.last_started) is None
    notices = Notices(recorded)
    assert await notices.begin(None) is None

    async def leads() -> bool:
        return await notices.begin(None) is not None

    await eventually(leads)
    leadership = await notices.begin(None)
    assert leadership is not None
    assert leadership.told == b'{"told":{}}'
    assert [one.text for one in leadership.complaints] == ["the notification address does not answer"]
    assert await Reconciles(recorded).begin(state.last_started) is not None


async def test_the_memory_of_an_older_process_is_used(recorded: Queue) -> None:
    await restore(recorded, expiry=60_000)
    locks = blob_locks(recorded, patience=0.1)
    async with locks.hold("registry.example.com", "team/a", "sha256:" + "b" * 64) as lock:
        assert lock.present
    async with locks.hold("registry.example.com", "team/b", "sha256:" + "b" * 64) as lock:
        assert lock.mount_sources == ("team/a",)
    async with locks.hold("registry.example.com", "team/b", "sha256:" + "d" * 64) as lock:
        assert lock.token == "", "an older process has this one"
    async with aclosing(RedisSelectionStore(recorded, deadline=PATIENCE)) as store:
        assert await store.recall(["amd64"]) == ["sha256:" + "c" * 64]
    async with aclosing(Observations(recorded, deadline=PATIENCE)) as observations:
        assert await observations.confirmed([(D + "seen:1", "wanted")], 60) == [True]


async def test_the_jobs_of_an_older_process_are_worked_off(recorded: Queue, handler: Recorder) -> None:
    await restore(recorded, expiry=300)  # it died: the leases of its jobs expire
    retried = await DeadLetters(recorded).retry()
    assert sorted(retried) == [D + "dead:1", D + "dead:2"]
    # What waits for hours is pushed again.
    await recorded.enqueue([Job(f"{D}waits:{n}", {"source": f"{SOURCE}waits:{n}"}) for n in (1, 2)], Lane.EVENTS)
    await recorded.redis.zadd(recorded.lane_queue(Lane.EVENTS), {f"{PREFIX}:{D}runs:1": 1})
    await recorded.redis.zadd(recorded.lane_queue(Lane.BACKFILL), {f"{PREFIX}:{D}runs:2": 1})
    async with working(recorded, handler):
        await idle(recorded)
    runs = {run.id: run for run in handler.runs}
    assert runs.keys() == {f"{D}{state}:{n}" for state in ("queued", "runs", "dead", "waits") for n in (1, 2)}
    assert len(handler.runs) == 8
    assert all(run.payload["source"] == SOURCE + run.id.removeprefix(D) for run in handler.runs)
    # The push that the attempt of the older process had begun to serve, and not the later one.
    assert runs[D + "runs:1"].pushed == runs[D + "queued:1"].pushed
    assert runs[D + "runs:2"].pushed is None
    assert runs[D + "runs:1"].merged
    assert [key async for key in recorded.redis.scan_iter("arq:*")] == []
    assert await recorded.redis.exists(*(f"{PREFIX}:{name}" for name in ("gen", "running", "waiting", "dead"))) == 0
    heard = recorded.finished("first-run")
    assert {(await anext(heard)).id for _ in range(4)} >= {f"{D}{state}:2" for state in ("done", "dead", "runs")}


class Fault(ReplicatorError):
    def __init__(self, message: str, error_class: ErrorClass) -> None:
        super().__init__(message)
        self.error_class = error_class


def shape(value: Any) -> Any:
    """The names and types of a record's fields. What is inside a payload is its owner's affair."""
    match value:
        case Mapping():
            return {
                name: "mapping" if name in {"payload", "outcome"} else shape(field) for name, field in value.items()
            }
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case None:
            return "null"
        case _:
            return type(value).__name__


def shapes(value: Any) -> set[str]:
    """The different shapes of the records that a key holds."""
    if isinstance(value, str):
        texts = [value]
    elif isinstance(value, dict):
        texts = list(value.values())
    else:
        texts = [entry["finished"] if isinstance(entry, dict) else entry for entry in value]
    # An entry of the history begins with its time.
    records = [json.loads(text[text.index("{") :]) if "{" in text else text for text in texts]
    return {json.dumps(shape(record), sort_keys=True) for record in records}


async def dump(queue: Queue) -> dict[str, Any]:
    """All keys that may hold records, as `recorded.json` has them."""
    found: dict[str, Any] = {}
    async for key in queue.redis.scan_iter("*"):
        name = key.decode()
        match await queue.redis.type(key):
            case b"string":
                found[name] = (await command(queue, "GET", key)).decode()
            case b"hash":
                found[name] = {field.decode(): text.decode() for field, text in (await hash_of(queue, key)).items()}
            case b"list":
                found[name] = [text.decode() for text in await command(queue, "LRANGE", key, 0, -1)]
            case b"stream":
                found[name] = [{"finished": entry[b"finished"].decode()} for _, entry in await queue.redis.xrange(key)]
    return found


async def hash_of(queue: Queue, key: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = await command(queue, "HGETALL", key)
    return found


def describe(_: Lane, payload: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> Description:
    result, size = ("copied", 1_234_567) if outcome else ("given up", 0)
    return Description(result, source=payload["source"], rule=payload["rule"], bytes=size)


async def test_what_a_process_writes_has_the_fields_and_types_that_an_older_one_reads(recorded: Queue) -> None:
    release, reached = asyncio.Event(), asyncio.Semaphore(0)

    async def handle(running: Running) -> dict[str, Any]:
        name = running.id.removeprefix(D)
        if name.startswith("waits"):
            raise Fault("the registry answered 503", ErrorClass.TRANSIENT)
        if name.startswith("dead"):
            raise Fault("denied", ErrorClass.PERMANENT)
        if name.startswith("runs"):
            running.progress(4321)
            reached.release()
            await release.wait()
        return {"result": "copied"}

    def jobs(number: int, pushed: datetime | None) -> list[Job]:
        payload = {"source": SOURCE, "rule": "a rule"}
        return [Job(f"{D}{state}:{number}", payload, pushed=pushed) for state in ("done", "dead", "waits", "runs")]

    await recorded.enqueue(jobs(1, datetime.now(UTC)), Lane.EVENTS)
    await recorded.enqueue(jobs(2, None), Lane.BACKFILL, run="first-run")

    async def settled() -> bool:
        counts = await recorded.counts()
        lanes = [(lane.queued, lane.running, lane.waiting) for lane in counts.lanes.values()]
        shown = bool(await processes(recorded)) and bool(await recorded.workers())
        # By then the worker has rewritten the running records that the script made.
        shown = shown and all(job.bytes_done for job in await recorded.running())
        return shown and counts.dead == 2 and lanes == [(0, 1, 1), (0, 1, 1)]

    config = LoadedConfig(time.time(), "rules.yaml:3: no such rule")
    policy = RetryPolicy(first=3600, cap=7200, horizon=86_400)
    async with (
        announced(recorded, "serve", "1", lambda: config),
        working(recorded, handle, lease=60, policy=policy, describe=describe),
    ):
        for _ in range(2):
            await reached.acquire()
        await eventually(settled)
        reconciles = Reconciles(recorded)
        first = await reconciles.begin(None)
        assert first is not None
        await first.end(Findings(listed=10, unregistered=0), "0" * 32)
        second = await reconciles.begin((await ReconcileState.read(recorded)).last_started)
        assert second is not None
        await second.end(Findings(listed=3, error="no answer"))
        third = await reconciles.begin((await ReconcileState.read(recorded)).last_started)
        assert third is not None
        notices = Notices(recorded)
        assert await notices.begin("no answer") is not None
        assert await notices.keep(b'{"told":{}}')
        written = await dump(recorded)
        release.set()
    # A newer field, which an older process passes over.
    running = {name: json.loads(text) for name, text in written[f"{PREFIX}:running"].items()}
    assert all(isinstance(record.pop("asked"), int) for record in running.values())
    written[f"{PREFIX}:running"] = {name: json.dumps(record) for name, record in running.items()}

    compared = set()
    for key, entry in RECORDED["keys"].items():
        if key in written and entry["type"] in {"string", "hash", "list", "stream"}:
            # A newer version may add a key.
            written_shapes = {shape.replace(', "pushed": "number"', "") for shape in shapes(written[key])}
            recorded_shapes = {shape.replace(', "pushed": "number"', "") for shape in shapes(entry["value"])}
            assert written_shapes == recorded_shapes, key
            compared.add(key.removeprefix(PREFIX + ":"))
    assert compared >= {
        "running",
        "waiting",
        "dead",
        "finished:first-run",
        "history:events",
        "history:backfill",
        "history:reconciles",
        "processes",
        "workers",
        "reconcile",
        "reconcile:lease",
        "notices",
        "notices:lease",
        "notices:complaints",
        f"arq:job:{PREFIX}:{D}runs:1",
        f"arq:in-progress:{PREFIX}:{D}runs:1",
    }
