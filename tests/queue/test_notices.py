"""One leader for the notices over all processes, and the dead letters that are new to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import DeadLetters, Job, Lane, Notices, Queue, QueueUnavailable
from tests.queue.conftest import Recorder, eventually, working

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.queue.servers import RedisServer


async def bury(queue: Queue, *ids: str) -> None:
    """Have jobs become dead letters, one after another."""
    handler = Recorder()
    async with working(queue, handler, concurrency={Lane.EVENTS: 1, Lane.BACKFILL: 1}):
        for job_id in ids:
            error = ReplicatorError(f"denied: {job_id}")
            error.error_class = ErrorClass.PERMANENT
            handler.errors = [error]
            mark = (await Notices(queue).new_dead_letters(0, 0)).mark
            if await DeadLetters(queue).retry([job_id]) == []:
                await queue.enqueue([Job(job_id, {"source": f"from {job_id}"})], Lane.EVENTS)

            async def buried(mark: int = mark) -> bool:
                return (await Notices(queue).new_dead_letters(mark, 0)).newer == 1

            await eventually(buried)


async def test_one_process_leads_until_it_ends(queue: Queue) -> None:
    first, second = Notices(queue), Notices(queue)
    assert await first.begin(None) is not None
    assert await second.begin(None) is None
    assert await first.begin(None) is not None
    await first.end()
    assert await second.begin(None) is not None
    assert await first.begin(None) is None


async def test_another_process_leads_after_the_lease_of_one_that_died(queue: Queue) -> None:
    first, second = Notices(queue, lease=0.2), Notices(queue)
    assert await first.begin(None) is not None
    await eventually(lambda: second.begin(None))
    assert not await first.keep(b"mine")
    turn = await second.begin(None)
    assert turn is not None
    assert turn.told == b""


async def test_what_was_sent_is_known_to_the_next(queue: Queue) -> None:
    first, second = Notices(queue), Notices(queue)
    await first.begin(None)
    assert await first.keep(b"told")
    assert not await second.keep(b"another")
    await first.end()
    turn = await second.begin(None)
    assert turn is not None
    assert turn.told == b"told"


async def test_complaints_of_all_processes_are_known_until_they_are_over(queue: Queue) -> None:
    first, second, third = Notices(queue), Notices(queue), Notices(queue, lease=0.2)
    await second.begin("no such key")
    await third.begin("no such host")
    await second.end()
    await second.begin("no such key")
    turn = await first.begin(None)
    assert turn is None, "the second has it"
    turn = await second.begin("no such key")
    assert turn is not None
    assert sorted(each.text for each in turn.complaints) == ["no such host", "no such key"]

    # One that died complains no more.
    async def left() -> bool:
        turn = await second.begin("no such key")
        return turn is not None and [each.text for each in turn.complaints] == ["no such key"]

    await eventually(left)
    turn = await second.begin(None)
    assert turn is not None
    assert turn.complaints == ()


async def test_a_complaint_of_any_text_is_reported(queue: Queue) -> None:
    turn = await Notices(queue).begin("rules-\udcff.yaml: \0 镜" + "x" * 5000)
    assert turn is not None
    assert turn.complaints[0].text.startswith("rules-?.yaml: \0 镜xx")
    assert len(turn.complaints[0].text) == 2000


async def test_a_complaint_counts_since_it_was_first_reported(queue: Queue) -> None:
    notices = Notices(queue)
    first, second = await notices.begin("x"), await notices.begin("x")
    assert first is not None
    assert second is not None
    assert first.complaints == second.complaints


async def test_dead_letters_are_new_until_the_mark(queue: Queue) -> None:
    notices = Notices(queue)
    assert await notices.new_dead_letters(0, 5) == (await notices.new_dead_letters(0, 5))
    await bury(queue, "a", "b")
    found = await notices.new_dead_letters(0, 5)
    assert (found.dead, found.newer, [letter.id for letter in found.first]) == (2, 2, ["a", "b"])
    assert found.first[0].message == "denied: a"
    await bury(queue, "c", "d", "e")
    later = await notices.new_dead_letters(found.mark, 2)
    assert (later.dead, later.newer, [letter.id for letter in later.first]) == (5, 3, ["c", "d"])
    last = await notices.new_dead_letters(later.mark, 2)
    assert (last.dead, last.newer, last.mark, last.first) == (5, 0, later.mark, ())


async def test_a_job_that_died_again_is_new_again(queue: Queue) -> None:
    notices = Notices(queue)
    await bury(queue, "a", "b")
    mark = (await notices.new_dead_letters(0, 5)).mark
    await DeadLetters(queue).drop(["a"])
    assert (await notices.new_dead_letters(mark, 5)).newer == 0
    await bury(queue, "b")
    again = await notices.new_dead_letters(mark, 5)
    assert (again.dead, [letter.id for letter in again.first]) == (1, ["b"])


async def test_nothing_is_left_of_dead_letters_that_are_gone(queue: Queue) -> None:
    await bury(queue, "a", "b")
    await DeadLetters(queue).drop()
    assert not await queue.redis.exists(f"{queue.prefix}:buried")
    await bury(queue, "a", "b")
    await DeadLetters(queue).retry(["a"])
    await queue.enqueue([Job("b", {})], Lane.EVENTS)
    assert not await queue.redis.exists(f"{queue.prefix}:buried")


async def test_a_dead_letter_that_an_older_version_dropped_is_no_example(queue: Queue) -> None:
    await bury(queue, "a", "b")
    assert await cast("Awaitable[int]", queue.redis.hdel(f"{queue.prefix}:dead", "a")) == 1
    found = await Notices(queue).new_dead_letters(0, 5)
    assert (found.dead, found.newer, [letter.id for letter in found.first]) == (1, 1, ["b"])


async def test_redis_away_is_an_error(own_server: RedisServer) -> None:
    async with await Queue.connect(own_server.url, deadline=0.3) as queue:
        notices = Notices(queue)
        own_server.kill()
        with pytest.raises(QueueUnavailable):
            await notices.begin(None)
