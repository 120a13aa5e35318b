"""Writes of the tag: each attempt is confirmed and short, and none follows a failed confirmation."""

from __future__ import annotations

import asyncio

import pytest

from replicator.copy import Copier, Result
from replicator.errors import ErrorClass, ReplicatorError
from replicator.registry import Access, Registries, Timing
from replicator.registry.errors import ConnectionFailed, Denied, ServerFailed
from tests.copy.conftest import Pair, a_copier
from tests.standins.faults import Answer, Cut, Delay, Fault
from tests.standins.images import blobs_of, image, multi_arch

TAG = "/manifests/v1$"
ROOT = multi_arch(1)


class Lost(ReplicatorError):
    """The lease was lost."""


class Confirming:
    """Records how often the tag had been written at each confirmation; raises after a given number."""

    def __init__(self, pair: Pair, until: int = 1000) -> None:
        self.writes: list[int] = []
        self._pair = pair
        self._until = until

    async def __call__(self) -> None:
        self.writes.append(self._pair.destination.faults.log.count("PUT", TAG))
        if len(self.writes) > self._until:
            raise Lost


@pytest.fixture
async def loaded(pair: Pair) -> Pair:
    await pair.source.push("v1", ROOT)
    return pair


async def test_a_tag_is_confirmed_right_before_it_is_written(loaded: Pair) -> None:
    log = loaded.destination.faults.log
    seen: list[int] = []

    async def confirm() -> None:
        seen.append(len(log))

    await loaded.copy(confirm=confirm)
    assert seen == [len(log) - 1]
    assert log.entries[-1].path.endswith("/manifests/v1")
    assert log.count("PUT", "/manifests/sha256:") == 2
    assert log.count("PUT", "/blobs/") == len(blobs_of(ROOT))


async def test_a_tag_is_left_alone_when_the_confirmation_fails(loaded: Pair) -> None:
    await loaded.destination.push("v1", image(9))
    with pytest.raises(Lost):
        await loaded.copy(confirm=Confirming(loaded, until=0))
    await loaded.destination.holds("v1", image(9))
    assert loaded.destination.faults.log.count("PUT", TAG) == 0


async def test_no_confirmation_is_needed_when_nothing_is_written(loaded: Pair) -> None:
    await loaded.copy()
    confirm = Confirming(loaded)
    outcome = await loaded.copy(confirm=confirm)
    assert outcome.result is Result.UP_TO_DATE
    assert confirm.writes == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Answer(503), "PUT", TAG, times=2),
        Fault(Answer(429, headers={"Retry-After": "1"}), "PUT", TAG, times=2),
        Fault(Delay(30), "PUT", TAG, times=2),
        Fault(Answer(404, "MANIFEST_BLOB_UNKNOWN"), "PUT", TAG, times=1),
    ],
    ids=lambda fault: str(fault.action),
)
async def test_each_attempt_to_write_a_tag_is_confirmed(loaded: Pair, fault: Fault) -> None:
    loaded.destination.faults.add(Fault(fault.action, fault.method, fault.path, times=fault.times))
    if isinstance(fault.action, Delay):
        loaded.hurry(loaded.destination, Timing(tag=2))
    confirm = Confirming(loaded)
    await loaded.copy(confirm=confirm)
    await loaded.destination.holds("v1", ROOT)
    assert confirm.writes == list(range((fault.times or 0) + 1))


@pytest.mark.parametrize(
    ("fault", "open_writes"),
    [
        (Fault(Answer(503), "PUT", TAG, times=2), 0),
        (Fault(Answer(404, "MANIFEST_BLOB_UNKNOWN"), "PUT", TAG, times=1), 0),
        (Fault(Answer(504), "PUT", TAG, times=1), 1),
        (Fault(Cut(None, "reset"), "PUT", TAG, times=2), 2),
        (Fault(Delay(30), "PUT", TAG, times=1), 1),
    ],
    ids=lambda value: str(getattr(value, "action", value)),
)
async def test_a_write_is_over_only_when_the_registry_has_answered(
    loaded: Pair, fault: Fault, open_writes: int
) -> None:
    loaded.destination.faults.add(Fault(fault.action, fault.method, fault.path, times=fault.times))
    if isinstance(fault.action, Delay):
        loaded.hurry(loaded.destination, Timing(tag=2))
    confirm, answered = Confirming(loaded), 0

    def note() -> None:
        nonlocal answered
        answered += 1

    await loaded.copy(confirm=confirm, answered=note)
    assert len(confirm.writes) - answered == open_writes


async def test_a_write_that_was_cancelled_or_refused_is_told_apart(loaded: Pair) -> None:
    answers: list[str] = []
    refusal = loaded.destination.faults.add(Fault(Answer(403, "DENIED"), "PUT", TAG, times=1))
    with pytest.raises(Denied):
        await loaded.copy(answered=lambda: answers.append("refused"))
    held = loaded.destination.faults.add(Fault(Delay(30), "PUT", TAG, times=1))
    copying = asyncio.create_task(loaded.copy(answered=lambda: answers.append("cancelled")))
    async with asyncio.timeout(30):
        while not held.hits:
            await asyncio.sleep(0.01)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert (answers, refusal.hits) == (["refused"], 1)


async def test_a_lease_lost_between_two_attempts_ends_them(loaded: Pair) -> None:
    await loaded.destination.push("v1", image(9))
    fault = loaded.destination.faults.add(Fault(Answer(503), "PUT", TAG, times=None))
    with pytest.raises(Lost):
        await loaded.copy(confirm=Confirming(loaded, until=1))
    assert fault.hits == 1
    await loaded.destination.holds("v1", image(9))


async def test_the_retry_after_of_a_tag_is_over_before_it_is_confirmed(loaded: Pair) -> None:
    """A pause after the confirmation would use up the lease."""
    loaded.destination.faults.add(Fault(Answer(429, headers={"Retry-After": "4"}), "PUT", TAG))
    loop = asyncio.get_running_loop()
    confirmed: list[float] = []
    written: list[float] = []

    async def confirm() -> None:
        confirmed.append(loop.time())

    original = loaded.destination.faults._handler

    async def noting(request: object) -> object:
        if getattr(request, "method", "") == "PUT" and str(getattr(request, "path", "")).endswith("/manifests/v1"):
            written.append(loop.time())
        return await original(request)  # type: ignore[arg-type]  # passed through

    loaded.destination.faults._handler = noting  # type: ignore[assignment]  # as above
    # Were the pause inside the limit of one attempt, no attempt could succeed.
    async with a_copier(Timing(tag=3, attempts=2)) as copier:
        await copier.copy(loaded.source.reference("v1"), loaded.destination.reference("v1"), confirm=confirm)
    assert len(confirmed) == 2
    assert len(written) == 1
    await loaded.destination.holds("v1", ROOT)


async def test_the_retry_after_of_another_request_is_over_before_a_tag_is_confirmed(loaded: Pair) -> None:
    await loaded.source.push("warm", image(5))
    read = 0
    access = Access(endpoint=f"http://{loaded.destination.host}")
    plain = Access(endpoint=f"http://{loaded.source.host}")
    target = loaded.destination.reference("v1")
    async with Registries(
        lambda repository: access if repository == target.repository else plain, timing=Timing(tag=2.5, attempts=1)
    ) as registries:

        def progress(number: int, _: int = 0, /) -> None:
            nonlocal read
            read += number
            if read == sum(blob.size for blob in blobs_of(image(6))):
                registries.transport(target.repository).limits.throttle(3.0)

        copier = Copier(registries)
        await copier.copy(loaded.source.reference("warm"), loaded.destination.reference("warm"))
        await loaded.source.push("v1", image(6))
        await copier.copy(loaded.source.reference("v1"), target, progress=progress)
    await loaded.destination.holds("v1", image(6))


@pytest.mark.parametrize("how", ["delay", "stall"])
async def test_an_attempt_to_write_a_tag_ends_in_time(loaded: Pair, how: str) -> None:
    action = Delay(60) if how == "delay" else Cut(None, "stall")
    fault = loaded.destination.faults.add(Fault(action, "PUT", TAG, times=None))
    # Only the deadline of the tag is short.
    async with a_copier(Timing(tag=1, attempts=2)) as copier, asyncio.timeout(30):
        with pytest.raises(ConnectionFailed, match="no answer within 1 s") as caught:
            await copier.copy(loaded.source.reference("v1"), loaded.destination.reference("v1"))
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert fault.hits == 2


def test_the_limit_of_an_attempt_is_well_below_a_lease() -> None:
    assert Timing().tag <= 20


async def test_a_refusal_is_not_retried(loaded: Pair) -> None:
    fault = loaded.destination.faults.add(Fault(Answer(403, "DENIED", "quota"), "PUT", TAG, times=None))
    confirm = Confirming(loaded)
    with pytest.raises(Denied, match="quota"):
        await loaded.copy(confirm=confirm)
    assert fault.hits == len(confirm.writes) == 1


async def test_the_attempts_to_write_a_tag_end(loaded: Pair) -> None:
    fault = loaded.destination.faults.add(Fault(Answer(500), "PUT", TAG, times=None))
    with pytest.raises(ServerFailed):
        await loaded.copy()
    assert fault.hits == 3


async def test_a_lost_answer_does_no_harm(loaded: Pair) -> None:
    loaded.destination.faults.add(Fault(Cut(None, "reset"), "PUT", TAG, times=2))
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)
