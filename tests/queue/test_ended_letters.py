"""A dead letter ends with its cause, and one that was made since stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import CauseWatch, DeadLetters, History, Job, JsonValue, Lane, Queue, dead_letters
from tests.queue.conftest import Recorder, eventually, working

if TYPE_CHECKING:
    import pytest

    from tests.queue.servers import RedisServer

A, B = "r.example/a:1", "r.example/b:1"


async def bury(queue: Queue, handler: Recorder, *ids: str, source: str = "", signature: bool = False) -> None:
    """Have these jobs fail for good; without one, the source of ``r.example/a:1`` is ``h.example/a:1``."""
    before = (await queue.counts()).dead
    handler.errors = [ReplicatorError("denied") for _ in ids]
    for error in handler.errors:
        error.error_class = ErrorClass.PERMANENT  # type: ignore[attr-defined]  # of the instance alone
    more: dict[str, JsonValue] = {"rule": "k", "signature": signature}
    jobs = [Job(each, {"source": source or each.replace("r.", "h.", 1), "destination": each, **more}) for each in ids]
    await queue.enqueue(jobs, Lane.EVENTS)
    async with working(queue, handler):
        await eventually(lambda: _dead(queue, before + len(ids)))


async def _dead(queue: Queue, number: int) -> bool:
    return (await queue.counts()).dead == number


async def left(queue: Queue) -> set[str]:
    return {letter.id for letter in await DeadLetters(queue).all()}


def source_of(destination: str) -> str:
    return destination.replace("r.", "h.", 1)


async def yes(_: str) -> bool:
    return True


async def test_what_is_right_ends_and_the_log_and_the_history_say_why(queue: Queue, handler: Recorder) -> None:
    await bury(queue, handler, A, B)
    watch = CauseWatch(queue)
    await watch.read()
    assert A in watch
    assert "r.example/c:1" not in watch
    watch.over(A, source_of(A))
    with capture_logs() as logs:
        await watch.end()
    assert await left(queue) == {B}
    assert [(line["event"], line["id"], line["why"]) for line in logs] == [
        ("dead letter ended", A, "the destination is right")
    ]
    newest = (await History.read(queue)).ended[0]
    assert (newest.result, newest.id, newest.source, newest.rule, newest.note, newest.lane) == (
        "ended",
        A,
        "h.example/a:1",
        "k",
        "the destination is right",
        Lane.EVENTS,
    )


async def test_that_of_another_source_stays_as_it_may_tell_of_a_collision(queue: Queue, handler: Recorder) -> None:
    await bury(queue, handler, A, B)
    watch = CauseWatch(queue)
    await watch.read()
    watch.over(A, "h.example/other:1")
    await watch.end()
    await watch.look([B])
    watch.over(B, "h.example/other:1")
    await watch.end()
    assert await left(queue) == {A, B}


async def test_one_that_was_made_after_the_comparison_began_stays(queue: Queue, handler: Recorder) -> None:
    await bury(queue, handler, A)
    watch, one = CauseWatch(queue), CauseWatch(queue)
    await watch.read()
    await one.look([A, B])
    await DeadLetters(queue).drop([A])
    await bury(queue, handler, A)
    for each in (watch, one):
        each.over(A, source_of(A))
        await each.end()
        await each.end_gone(yes)
    assert await left(queue) == {A}


async def test_what_no_list_shows_ends_as_gone_if_it_certainly_is(queue: Queue, handler: Recorder) -> None:
    await bury(queue, handler, A, B, "r.example/c:1")
    await bury(queue, handler, "r.example/s:1", signature=True)
    watch, asked = CauseWatch(queue), list[str]()
    await watch.read()
    watch.listed("h.example/b", ["0", "1"])

    async def is_gone(source: str) -> bool:
        asked.append(source)
        return source == "h.example/a:1"

    await watch.end_gone(is_gone)
    assert await left(queue) == {B, "r.example/c:1", "r.example/s:1"}
    # No list shows signatures, and the tag that was listed need not be looked for.
    assert asked == ["h.example/a:1", "h.example/c:1"]
    assert (await History.read(queue)).ended[0].note == "gone at the source"


async def test_many_are_read_and_ended_in_batches(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "BATCH", 5)
    ids = [f"r.example/a:{number}" for number in range(13)]
    await bury(queue, handler, *ids)
    watch = CauseWatch(queue)
    await watch.read()
    for each in ids[:11]:
        watch.over(each, source_of(each))
    await watch.end()
    assert await left(queue) == set(ids[11:])


async def test_none_ends_and_nothing_fails_while_redis_is_away(own_server: RedisServer, handler: Recorder) -> None:
    async with await Queue.connect(own_server.url) as queue:
        await bury(queue, handler, A)
        watch = CauseWatch(queue)
        await watch.read()
        own_server.kill()
        watch.over(A, source_of(A))
        with capture_logs() as logs:
            await watch.end()
            await watch.look([A])
        assert "dead letters not compared" in {line["event"] for line in logs}
        own_server.start()
        await eventually(lambda: _dead(queue, 1))
