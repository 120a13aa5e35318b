"""Events reach their receiver: signed, each at least once, and those of one image in order."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from replicator.queue import Lane, Queue
from replicator.queue.outbox import EventType, Outbox, look_into
from replicator.receivers import parse_event_receivers
from replicator.server.cloudevents import Sender, open_sender, types_of
from replicator.server.cloudevents.delivery import LEASE, MOST_IN_FLIGHT, Delivery, Term
from replicator.server.posting import open_poster
from replicator.settings import Settings
from replicator.tasks import cancel_all
from tests.queue.conftest import command, eventually
from tests.queue.servers import CuttingProxy
from tests.queue.test_outbox import Work
from tests.server.metrics.test_conventions import exposed
from tests.standins.event_receiver import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from replicator.server.metrics import Metrics
    from tests.queue.servers import RedisServer
    from tests.standins.event_receiver import EventReceiver


@asynccontextmanager
async def sending(queue: Queue, address: str, **more: Any) -> AsyncIterator[Sender]:
    """Have a process send to a receiver; at the end it is killed."""
    (receiver,) = parse_event_receivers(address)
    outbox, term = Outbox(queue, {receiver.key: types_of(receiver)}, lease=LEASE), Term()
    async with open_poster(reuse=True) as poster:

        def deliveries() -> list[Delivery]:
            return [Delivery(outbox, receiver, poster, "/replicator/test", term, **{"first": 0.02, **more})]

        sender = Sender(outbox, term, deliveries, {receiver.key: receiver.host}, renew=0.05)
        await sender.step()
        task = asyncio.create_task(sender.run())
        try:
            yield sender
        finally:
            await cancel_all({task})


async def free_lease(queue: Queue) -> None:
    """Have the lease of a process that was killed expire."""
    await command(queue, "DEL", f"{queue.prefix}:sending:lease")


async def until(check: Callable[[], bool]) -> None:
    async def checked() -> bool:
        return check()

    await eventually(checked)


async def waiting(queue: Queue, address: str) -> int:
    (receiver,) = parse_event_receivers(address)
    (state,) = await look_into(queue, [receiver.key])
    return state.waiting


def image(name: str) -> str:
    return f"r.example/{name}:1"


async def test_an_arrival_is_announced_signed_and_forgotten_when_it_is_taken(
    queue: Queue, receiver: EventReceiver
) -> None:
    async with sending(queue, receiver.address):
        await Work(queue, image("a"), Lane.BACKFILL).run("copied")
        await until(lambda: bool(receiver.taken))

        async def is_empty() -> bool:
            return await waiting(queue, receiver.address) == 0

        await eventually(is_empty)
    (event,) = receiver.taken
    assert (event["type"], event["subject"], event["source"]) == ("image.copied", image("a"), "/replicator/test")


async def test_a_sender_that_is_killed_before_the_answer_is_followed_by_one_that_sends_the_same_id(
    queue: Queue, receiver: EventReceiver
) -> None:
    receiver.gate.clear()
    async with sending(queue, receiver.address):
        await Work(queue, image("a")).run("copied")
        await until(lambda: bool(receiver.taken))
    receiver.gate.set()
    await free_lease(queue)
    async with sending(queue, receiver.address):
        await until(lambda: len(receiver.taken) == 2)
    one, two = receiver.ids
    assert one == two
    assert receiver.taken[0] == receiver.taken[1]


@pytest.mark.parametrize("status", [500, 401, 302])
async def test_an_image_whose_event_fails_keeps_its_order_and_holds_up_no_other(
    queue: Queue, receiver: EventReceiver, status: int
) -> None:
    digests = [f"sha256:{n:064x}" for n in range(3)]
    receiver.refuse = lambda event: status if event["subject"] == image("bad") else None
    async with sending(queue, receiver.address, first=0.01):
        for digest in digests:
            await Work(queue, image("bad")).run("copied", digest=digest)
            await Work(queue, image("good")).run("copied", digest=digest)
        await until(lambda: len(receiver.taken) == 3 and receiver.requests.count(image("bad")) >= 2)
        assert {subject for _, subject in receiver.told} == {image("good")}
        receiver.refuse = lambda _: None
        await until(lambda: len(receiver.taken) == 6)
    for name in ("good", "bad"):
        assert [e["data"]["digest"] for e in receiver.taken if e["subject"] == image(name)] == digests


async def test_a_receiver_that_is_down_is_tried_with_one_event_at_a_time_and_gets_all_when_it_is_back(
    queue: Queue, receiver: EventReceiver
) -> None:
    receiver.refuse = lambda _: 503
    names = [image(f"i{n}") for n in range(12)]
    with capture_logs() as lines:
        async with sending(queue, receiver.address, first=0.1):
            for name in names:
                await Work(queue, name).run("copied")
            await until(lambda: len(receiver.requests) >= 12)
            receiver.most = 0
            tried = len(receiver.requests)
            await until(lambda: len(receiver.requests) > tried)
            assert receiver.most == 1
            receiver.refuse = lambda _: None
            await until(lambda: len(receiver.taken) == 12)
    assert sorted(event["subject"] for event in receiver.taken) == sorted(names)
    delayed = [line for line in lines if line["event"] == "event delayed"]
    assert len(delayed) == 1, "an outage fills no log"
    assert "token-of-the-tests" not in str(lines)
    assert "it answered 503" in delayed[0]["why"]


async def test_few_requests_are_under_way_at_a_time(queue: Queue, receiver: EventReceiver) -> None:
    receiver.gate.clear()
    async with sending(queue, receiver.address):
        for number in range(MOST_IN_FLIGHT + 4):
            await Work(queue, image(f"i{number}")).run("copied")
        await until(lambda: len(receiver.taken) == MOST_IN_FLIGHT)
        receiver.gate.set()
        await until(lambda: len(receiver.taken) == MOST_IN_FLIGHT + 4)
    assert receiver.most == MOST_IN_FLIGHT


async def test_an_event_that_is_too_old_is_dropped_with_a_warning_and_one_of_a_newer_version_is_left(
    queue: Queue, receiver: EventReceiver
) -> None:
    (parsed,) = parse_event_receivers(receiver.address)
    stream = f"{queue.prefix}:outbox:{parsed.key}"
    await command(queue, "XADD", stream, "1-1", "type", "image.copied", "at", 1_700_000_000_000, "entry", "{}")
    seconds, _ = await queue.redis.time()
    await command(queue, "XADD", stream, "1-2", "type", "image.signed", "at", seconds * 1000, "entry", "{}")
    with capture_logs() as lines:
        async with sending(queue, receiver.address):
            await Work(queue, image("a")).run("copied")
            await until(lambda: bool(receiver.taken))
            await until(lambda: any(line["event"] == "events dropped" for line in lines))
    (state,) = await look_into(queue, [parsed.key])
    assert (state.waiting, state.dropped) == (1, 1)
    (warning,) = [line for line in lines if line["event"] == "events dropped"]
    assert (warning["receiver"], warning["number"]) == (receiver.host, 1)


async def test_only_the_leader_sends_and_another_takes_over_when_it_ends(queue: Queue, receiver: EventReceiver) -> None:
    async with sending(queue, receiver.address) as one, sending(queue, receiver.address):
        await Work(queue, image("a")).run("copied")
        await until(lambda: bool(receiver.taken))
        one.stop()

        async def is_led_anew() -> bool:
            await Work(queue, image("b")).run("copied")
            return len(receiver.taken) >= 2

        await eventually(is_led_anew)
    assert len(set(receiver.ids)) == len(receiver.ids), "no event was sent twice"


async def test_a_leader_that_could_not_renew_its_lease_begins_no_request(queue: Queue, receiver: EventReceiver) -> None:
    (parsed,) = parse_event_receivers(receiver.address)
    outbox, term = Outbox(queue, {parsed.key: list(EventType)}, lease=LEASE), Term()
    await outbox.lead()
    await Work(queue, image("a")).run("copied")
    async with open_poster() as poster:
        delivery = Delivery(outbox, parsed, poster, "/replicator/test", term)
        task = asyncio.create_task(delivery.run())
        await asyncio.sleep(0.1)
        assert receiver.requests == []
        delivery.stop()
        await task


async def test_a_process_registers_its_receivers_before_anything_else_and_shows_what_waits(
    queue: Queue, metrics: Metrics, receiver: EventReceiver
) -> None:
    gone = f"up_to_date+http://127.0.0.1:9/x#{SECRET}"
    settings = Settings(_env_file=None, _secrets_dir=None, events_url=SecretStr(f"{receiver.address} {gone}"))
    async with open_sender(settings, queue, metrics):
        await Work(queue, image("a")).run("copied")
        await Work(queue, image("a")).run("up to date")
        await until(lambda: bool(receiver.taken))

        async def is_counted() -> bool:
            found = (await exposed(metrics)).series("replicator_cloudevents_waiting")
            return found == {(receiver.host,): 0, ("127.0.0.1:9",): 2}

        await eventually(is_counted)
        found = await exposed(metrics)
    assert receiver.told == [("image.copied", image("a"))]
    assert found.series("replicator_cloudevents_dropped") == {(receiver.host,): 0, ("127.0.0.1:9",): 0}
    requests = found.series("replicator_cloudevents_requests_total")
    assert requests[receiver.host, "taken"] == 1
    assert requests[receiver.host, "failed"] == 0
    assert requests["127.0.0.1:9", "taken"] == 0
    # It has left the leadership to another process.
    assert await command(queue, "EXISTS", f"{queue.prefix}:sending:lease") == 0


async def test_an_outage_of_redis_between_a_delivery_and_its_note_loses_nothing(
    server: RedisServer, short_dir: Path, queue: Queue, receiver: EventReceiver
) -> None:
    receiver.gate.clear()
    async with (
        CuttingProxy(short_dir / f"{queue.prefix}.sock", server.socket) as proxy,
        await Queue.connect(proxy.url, prefix=queue.prefix, deadline=0.3) as own,
        sending(own, receiver.address),
    ):
        await Work(queue, image("a")).run("copied")
        await until(lambda: bool(receiver.taken))
        proxy.refusing = True
        proxy.cut()
        receiver.gate.set()
        await Work(queue, image("a")).run("copied", digest="sha256:" + "e" * 64)
        await Work(queue, image("b")).run("copied")
        await asyncio.sleep(0.4)
        proxy.refusing = False
        await until(lambda: len(set(receiver.ids)) == 3)

        async def is_empty() -> bool:
            return await waiting(queue, receiver.address) == 0

        await eventually(is_empty)
    assert [e["data"]["digest"][-1] for e in receiver.taken if e["subject"] == image("a")] == ["d", "e"]


async def test_a_single_event_that_always_fails_delays_no_other_however_few_there_are(
    queue: Queue, receiver: EventReceiver
) -> None:
    receiver.refuse = lambda event: 422 if event["subject"] == image("bad") else None
    async with sending(queue, receiver.address, first=0.001):
        await Work(queue, image("bad")).run("copied")
        await until(lambda: len(receiver.requests) >= 8)
        await Work(queue, image("good")).run("copied")
        await until(lambda: bool(receiver.taken))
        assert receiver.requests.count(image("bad")) < 16, "its pauses grow, and nobody waits for them"


async def test_a_receiver_that_asks_for_a_pause_gets_one(queue: Queue, receiver: EventReceiver) -> None:
    receiver.refuse = lambda _: 429
    async with sending(queue, receiver.address, first=0.001):
        await Work(queue, image("a")).run("copied")
        await until(lambda: bool(receiver.requests))
        await Work(queue, image("b")).run("copied")
        await asyncio.sleep(0.1)
    assert receiver.requests == [image("a")]
