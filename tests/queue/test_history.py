"""The history of what ended: bounded, and never the reason of a failure."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
from structlog.testing import capture_logs

from replicator.errors import ErrorClass
from replicator.queue import (
    Action,
    DeadLetters,
    Description,
    Ended,
    EndedFilter,
    Findings,
    History,
    Job,
    Lane,
    Queue,
    Reconciles,
    ReconcileState,
    named,
    note_action,
    read_ended,
    system_user,
)
from replicator.queue.attempt import Ending, StartedJob
from replicator.queue.history import (
    MOST_ACTIONS,
    MOST_JOBS,
    MOST_RECONCILES,
    encode_entry,
    lag_ms,
    logging_actions,
)
from replicator.queue.job import RunningRecord
from replicator.queue.records import EPOCH, encode
from replicator.queue.traffic import MOST_RATES
from tests.queue.conftest import Recorder, command, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.queue.servers import RedisServer

DESCRIPTION = Description("copied", "h.example/a:1", "a rule", "a note", 42)
RECORD = RunningRecord("t", Lane.EVENTS, "w", EPOCH, 0, 0, 0, 0)
ENDED = Ended(EPOCH, "", Lane.EVENTS, "copied", "h.example/a:1", "a rule", "", None, 0, 1.0, None, 1)
STARTED = StartedJob("r.example/a:1", b"", 1, 0, None, None, RECORD, merged=False)


def describe(_: Lane, payload: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> Description | None:
    """Keep all but what says that it is quiet."""
    if outcome is None:
        return Description("given up", str(payload.get("source", "")), arrived=False)
    return None if payload.get("quiet") else replace(DESCRIPTION, source=str(payload["source"]))


def job(name: str, **payload: Any) -> Job:
    return Job(f"r.example/a/{name}", {"source": f"h.example/{name}", **payload})


async def finish(queue: Queue, name: str, entry: str, lag: str | int = "") -> bytes:
    """Run a job's whole life by the scripts alone."""
    await queue.enqueue([Job(name, {})], Lane.EVENTS)
    _, replies = await queue.run_script("claim", "events", 1, f"t-{name}", "w", 10_000, 0, 0)
    job = StartedJob.read(replies)
    answer: bytes = await queue.run_script(
        "finish", job.id, job.record.token, job.generation, "events", "done", 0, 0, "{}", "", entry, lag
    )
    return answer


async def test_done_jobs_and_dead_letters_are_kept_the_newest_first(queue: Queue, handler: Recorder) -> None:
    async with working(queue, handler, describe=describe, concurrency={Lane.EVENTS: 1, Lane.BACKFILL: 1}):
        await queue.enqueue([job("one")], Lane.EVENTS)
        await idle(queue)
        handler.errors = [Fault(ErrorClass.PERMANENT)]
        await queue.enqueue([job("two")], Lane.BACKFILL)
        await idle(queue)
    newest, oldest = (await History.read(queue)).ended
    assert (oldest.id, oldest.lane, oldest.result) == ("r.example/a/one", Lane.EVENTS, "copied")
    assert (oldest.source, oldest.rule, oldest.note, oldest.bytes) == ("h.example/one", "a rule", "a note", 42)
    assert (oldest.error_class, oldest.lag, oldest.tries) == (None, None, 1)
    assert (newest.id, newest.lane, newest.result) == ("r.example/a/two", Lane.BACKFILL, "given up")
    assert (newest.error_class, newest.source) == (ErrorClass.PERMANENT, "h.example/two")
    assert newest.note == (await DeadLetters(queue).all())[0].message
    assert oldest.at <= newest.at <= (await History.read(queue)).now


async def test_what_nobody_wants_to_see_is_not_kept_and_what_fails_for_now_neither(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, describe=describe):
        await queue.enqueue([job("one")], Lane.EVENTS)
        await idle(queue)
        await queue.enqueue([job("two", quiet=True)], Lane.EVENTS)
        await idle(queue)
    (entry,) = (await History.read(queue)).ended
    assert (entry.id, entry.tries) == ("r.example/a/one", 2)


async def test_a_copy_that_is_made_again_at_once_is_kept_all_the_same(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    async with working(queue, handler, describe=describe):
        await queue.enqueue([job("one")], Lane.EVENTS)
        await handler.started(1)
        await queue.enqueue([job("one")], Lane.EVENTS)
        handler.gate.set()
        await idle(queue)
    assert len((await History.read(queue)).ended) == 2


async def test_a_backfill_pushes_no_event_out_and_no_lane_grows_without_end(queue: Queue) -> None:
    await finish(queue, "r.example/first:1", '{"lane":"events"}')
    for lane, number in (("events", 3), ("backfill", MOST_JOBS + 50)):
        names = [f"{lane}-{n}" for n in range(number)]
        await queue.enqueue([Job(name, {}) for name in names], Lane(lane))
        _, *replies = await queue.run_script("claim", lane, number, lane, "w", 60_000, 0, 0)
        for job in map(StartedJob.read, replies):
            entry = encode_entry(job, Lane(lane), Ending("done"), 0.1, DESCRIPTION)
            token = job.record.token
            await queue.run_script("finish", job.id, token, job.generation, lane, "done", 0, 0, "{}", "", entry)
    assert await command(queue, "LLEN", f"{queue.prefix}:history:events") == 4
    assert await command(queue, "LLEN", f"{queue.prefix}:history:backfill") == MOST_JOBS
    ended = (await History.read(queue)).ended
    assert [entry.id for entry in ended if entry.lane is Lane.EVENTS] == ["events-2", "events-1", "events-0"]


async def put_entries(queue: Queue, lane: Lane, *entries: tuple[int, str, str]) -> None:
    """Put entries into the history, the oldest first: time in ms, id and class of the failure."""
    for at, name, kind in entries:
        ended = replace(ENDED, id=name, lane=lane, error_class=ErrorClass(kind) if kind else None)
        text = b"%d " % at + encode(ended, without={"at", "replaced"})
        await command(queue, "LPUSH", f"{queue.prefix}:history:{lane}", text)


async def test_what_ended_is_read_by_pages_that_lose_and_repeat_nothing(queue: Queue) -> None:
    events = [(1000 + number // 3, f"r.example/e:{number}", "") for number in range(20)]
    await put_entries(queue, Lane.EVENTS, *events)
    await put_entries(queue, Lane.BACKFILL, *((1003, f"r.example/b:{number}", "permanent") for number in range(4)))
    for wanted, number in ((None, 24), (EndedFilter(destination="r.example/e:1"), 11), (EndedFilter(failed=True), 4)):
        seen: list[str] = []
        before = None
        for _ in range(30):
            page = await read_ended(queue, wanted, before=before, most=5)
            seen += [job.id for job in page.jobs]
            before = page.following
            if before is None:
                break
        assert len(seen) == len(set(seen)) == number
    newest = (await read_ended(queue, most=1)).jobs
    assert {job.id for job in newest} == {"r.example/e:18", "r.example/e:19"}


async def test_what_ended_is_filtered_by_all_that_is_said(queue: Queue) -> None:
    await put_entries(queue, Lane.EVENTS, (1, "r.example/a:1", ""), (2, "r.example/b:1", "permanent"))
    await put_entries(queue, Lane.BACKFILL, (3, "r.example/c:1", ""))
    for wanted, names in (
        (EndedFilter(lane=Lane.BACKFILL), ["r.example/c:1"]),
        (EndedFilter(destination="r.example/a"), ["r.example/a:1"]),
        (EndedFilter(failed=False), ["r.example/c:1", "r.example/a:1"]),
        (EndedFilter(failed=True, rule="other"), []),
        (EndedFilter(source="h.example/", result="copied", rule="a rule", lane=Lane.BACKFILL), ["r.example/c:1"]),
    ):
        assert [job.id for job in (await read_ended(queue, wanted)).jobs] == names


async def test_lags_are_summed_up_by_the_quarter_of_an_hour(queue: Queue) -> None:
    for number, lag in enumerate((1000, 3000, 500)):
        await finish(queue, f"r.example/a:{number}", "", lag)
    # A quarter of an hour may end meanwhile.
    spans = (await History.read(queue)).lags
    assert sum(span.number for span in spans) == 3
    assert sum(span.mean * span.number for span in spans) == pytest.approx(4.5)
    assert max(span.longest for span in spans) == 3.0
    assert all(span.start.timestamp() % 900 == 0 for span in spans)


async def test_lags_of_more_than_two_days_ago_and_of_the_future_are_forgotten(queue: Queue) -> None:
    quarter = int(time.time() // 900)
    old = {str(quarter - back): "1 1000 1000" for back in range(185, 400)}
    fields = {**old, str(quarter + 50): "1 1 1", "0": "no numbers"}
    await command(queue, "HSET", f"{queue.prefix}:lag", *(part for pair in fields.items() for part in pair))
    await finish(queue, "r.example/a:1", "", 2000)
    left = await command(queue, "HKEYS", f"{queue.prefix}:lag")
    assert len(left) <= 8
    assert all(quarter - 192 < int(name) <= quarter + 1 for name in left)
    assert (await History.read(queue)).lags[-1].longest == 2.0


async def test_results_are_counted_by_the_hour_for_two_days_and_their_number_is_bounded(queue: Queue) -> None:
    hour, rates = int(time.time() // 3600), f"{queue.prefix}:rates"
    older = [str(part) for back in (-3, 47, 48, 5000) for part in (f"{hour - back} copied", 7)]
    await command(queue, "HSET", rates, *older, "of another version", "1")
    for number, result in enumerate(("copied", "copied", "given up")):
        entry = encode_entry(STARTED, Lane.EVENTS, Ending("done"), 1.0, replace(DESCRIPTION, result=result, note='"'))
        assert isinstance(entry, bytes)
        await finish(queue, f"r.example/a:{number}", entry.decode())
    spans = (await History.read(queue)).rates
    assert [dict(span.results) for span in spans if span.start.timestamp() < hour * 3600] == [{"copied": 7}]
    counted = Counter[str]()
    for span in spans[1:]:  # the hour may have ended meanwhile
        counted.update(span.results)
    assert counted == {"copied": 2, "given up": 1}
    names = [f"{hour} {number}" for number in range(MOST_RATES + 5)]
    await command(queue, "HSET", rates, *(part for name in names for part in (name, "1")))
    await finish(queue, "r.example/a:9", '{"result":"one more"}')
    assert b"one more" not in b"".join(await command(queue, "HKEYS", rates))


def test_the_lag_is_that_of_the_push_and_without_one_the_time_of_the_attempt() -> None:
    def lag(
        lane: Lane = Lane.EVENTS,
        how: Literal["done", "retry"] = "done",
        *,
        lag: float | None = None,
        arrived: bool = True,
    ) -> str | int:
        return lag_ms(lane, Ending(how, lag=lag), 1.5, replace(DESCRIPTION, arrived=arrived))

    assert (lag(lag=20.0), lag()) == (20_000, 1500)
    assert [lag(Lane.BACKFILL, lag=1.0), lag(how="retry", lag=1.0), lag(arrived=False)] == ["", "", ""]
    assert lag_ms(Lane.EVENTS, Ending("done", lag=1.0), 1.0, None) == ""


async def test_the_time_of_the_push_reaches_the_history(queue: Queue) -> None:
    entry = encode_entry(STARTED, Lane.EVENTS, Ending("done", lag=12.3456), 1.0, DESCRIPTION)
    await finish(queue, "r.example/a:1", bytes(entry).decode() if isinstance(entry, bytes) else entry)
    assert (await History.read(queue)).ended[0].lag == 12.346


async def test_a_name_or_an_error_of_any_length_takes_little_room() -> None:
    long = "x" * 100_000
    description = Description("given up", long, long, long)
    entry = encode_entry(STARTED, Lane.EVENTS, Ending("done"), 1.0, description)
    assert len(entry) < 2200


async def test_nothing_about_the_history_fails_a_copy(queue: Queue, handler: Recorder) -> None:
    for key in ("history:events", "lag", "rates"):
        await queue.redis.set(f"{queue.prefix}:{key}", "of another kind")

    assert await finish(queue, "r.example/b:1", '{"result":"copied"}', 5) == b"done"

    def broken(*_: Any) -> Description:
        raise KeyError("a fault")

    for broken_or_not in (describe, broken):
        async with working(queue, handler, describe=broken_or_not):
            await queue.enqueue([job("one")], Lane.EVENTS)
            await idle(queue)
    assert len(handler.runs) == 2
    assert not (await queue.counts()).dead


async def test_what_another_version_noted_is_left_out(queue: Queue) -> None:
    await command(
        queue, "LPUSH", f"{queue.prefix}:history:events", "nonsense", '1 {"id": 3}', "1 []", "99999999999999999 {}"
    )
    await command(queue, "LPUSH", f"{queue.prefix}:history:reconciles", "{}")
    await command(queue, "HSET", f"{queue.prefix}:lag", "x", "1 2 3", "5", "0 0 0", "6", "?")
    history = await History.read(queue)
    assert (history.ended, history.lags, history.reconciles) == ((), (), ())


async def test_reconciles_that_ended_are_kept_and_their_number_is_bounded(queue: Queue) -> None:
    for number in range(MOST_RECONCILES + 3):
        state = await ReconcileState.read(queue)
        lease = await Reconciles(queue).begin(state.last_started)
        assert lease is not None
        await lease.end(Findings(listed=number, error="it failed" if number % 2 else None))
        await _tick(queue)
    kept = (await History.read(queue)).reconciles
    assert [result.findings.listed for result in kept] == list(range(MOST_RECONCILES + 2, 2, -1))
    assert kept[0] == (await ReconcileState.read(queue)).last


async def _tick(queue: Queue) -> None:
    """Let a millisecond of Redis's clock go by: a run is told from the next by when it began."""
    began = await queue.redis.time()
    while (await queue.redis.time())[1] // 1000 == began[1] // 1000:
        await asyncio.sleep(0.0005)


async def test_dead_letters_are_read_in_pages_however_many_there_are(queue: Queue, handler: Recorder) -> None:
    number = 1200
    handler.errors = [Fault(ErrorClass.PERMANENT) for _ in range(number)]
    async with working(queue, handler, concurrency={Lane.EVENTS: 50}):
        await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(number)], Lane.EVENTS)
        await eventually(lambda: _dead(queue, number), timeout=60)
    seen: set[str] = set()
    cursor, parts = 0, 0
    while parts == 0 or cursor:
        part = await DeadLetters(queue).page(cursor, size=200)
        assert part.total == number
        assert len(part.letters) < 600
        assert [letter.last for letter in part.letters] == sorted((one.last for one in part.letters), reverse=True)
        seen |= {letter.id for letter in part.letters}
        cursor, parts = part.following, parts + 1
    assert len(seen) == number
    assert parts > 2


async def _dead(queue: Queue, number: int) -> bool:
    return (await queue.counts()).dead == number


async def test_what_people_did_is_kept_the_newest_first_bounded_and_logged(queue: Queue) -> None:
    for number in range(MOST_ACTIONS + 3):
        await queue.ask("note_action", encode(Action(EPOCH, "retry", f"number {number}", "a@h"), without={"at"}), 0)
    with capture_logs() as lines:
        await note_action(queue, action="pause", what='rule "a"\x1b[2J', by="alice@host")
    assert [line for line in lines if line["event"] == "operator action"] == [
        {"event": "operator action", "log_level": "info", "action": "pause", "what": 'rule "a" [2J', "by": "alice@host"}
    ]
    kept = await History.read(queue)
    newest, *older = kept.actions
    assert (newest.action, newest.what, newest.by) == ("pause", 'rule "a" [2J', "alice@host")
    assert EPOCH < newest.at <= kept.now
    assert [action.what for action in older] == [f"number {n}" for n in range(MOST_ACTIONS + 2, 3, -1)]


async def test_an_action_does_not_fail_when_its_trace_cannot_be_kept(own_server: RedisServer) -> None:
    async with await Queue.connect(own_server.url, deadline=0.2) as queue:
        own_server.kill()
        with capture_logs() as lines:
            await note_action(queue, action="drop", what="all", by="a@h")
            await note_action(None, action="drop", what="all", by="a@h")
    assert [line["event"] for line in lines if "action" in line] == [
        "operator action",
        "operator action not kept",
        "operator action",
    ]


async def test_what_a_command_did_is_logged_by_one_process_that_runs_for_long(
    queue: Queue, server: RedisServer, prefix: str
) -> None:
    async with (
        await Queue.connect(server.url, prefix=prefix) as other,
        await Queue.connect(server.url, prefix=prefix) as third,
    ):
        await note_action(queue, action="drop", what="a", by="a@h")
        await note_action(queue, action="drop", what="b", by="a@h")
        with capture_logs() as lines:
            async with logging_actions(other), logging_actions(third):

                async def logged() -> bool:
                    return len([line for line in lines if line["event"] == "operator action"]) == 2

                await eventually(logged)
                await note_action(other, action="drop", what="c", by="the page")
                assert await other.ask("actions_to_log") == [], "it is logged already"
    assert [line["what"] for line in lines if line["event"] == "operator action"] == ["a", "b", "c"]
    assert "at" in lines[0]


def test_a_user_is_named_with_the_host_and_who_called_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-1")
    monkeypatch.setenv("LOGNAME", "replicator")
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert system_user() == "replicator@node-1"
    monkeypatch.setenv("SUDO_USER", "alice")
    assert system_user() == "replicator@node-1 (sudo by alice)"
    for name in ("SUDO_USER", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    assert system_user() == "uid 4000000000@node-1"


def test_of_many_things_the_first_are_named() -> None:
    assert named(["a"]) == "a"
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named([str(n) for n in range(1203)]) == "0, 1, 2 and 1,200 more"
