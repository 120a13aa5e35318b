"""Writing the tag: confirmed each time, quick each time, and not at all when told so."""

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
    """The lease is another's."""


class Confirming:
    """Notes how often the tag had been written when it was asked; raises from a given time on."""

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


async def test_it_is_confirmed_right_before_it_is_written(loaded: Pair) -> None:
    log = loaded.destination.faults.log
    seen: list[int] = []

    async def confirm() -> None:
        seen.append(len(log))

    await loaded.copy(confirm=confirm)
    assert seen == [len(log) - 1]
    assert log.entries[-1].path.endswith("/manifests/v1")
    assert log.count("PUT", "/manifests/sha256:") == 2
    assert log.count("PUT", "/blobs/") == len(blobs_of(ROOT))


async def test_it_is_left_alone_when_the_confirmation_fails(loaded: Pair) -> None:
    await loaded.destination.push("v1", image(9))
    with pytest.raises(Lost):
        await loaded.copy(confirm=Confirming(loaded, until=0))
    await loaded.destination.holds("v1", image(9))
    assert loaded.destination.faults.log.count("PUT", TAG) == 0


async def test_it_needs_no_confirmation_when_nothing_is_written(loaded: Pair) -> None:
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
async def test_each_try_to_write_it_is_confirmed(loaded: Pair, fault: Fault) -> None:
    loaded.destination.faults.add(Fault(fault.action, fault.method, fault.path, times=fault.times))
    confirm = Confirming(loaded)
    await loaded.copy(confirm=confirm)
    await loaded.destination.holds("v1", ROOT)
    assert confirm.writes == list(range((fault.times or 0) + 1))


async def test_a_lease_lost_between_two_tries_ends_them(loaded: Pair) -> None:
    await loaded.destination.push("v1", image(9))
    fault = loaded.destination.faults.add(Fault(Answer(503), "PUT", TAG, times=None))
    with pytest.raises(Lost):
        await loaded.copy(confirm=Confirming(loaded, until=1))
    assert fault.hits == 1
    await loaded.destination.holds("v1", image(9))


async def test_peace_that_the_destination_wants_is_over_before_it_is_confirmed(loaded: Pair) -> None:
    """A pause after the confirmation would eat up the lease."""
    loaded.destination.faults.add(Fault(Answer(429, headers={"Retry-After": "2"}), "PUT", TAG))
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
    # Were the pause inside of the limit of one try, no try could succeed.
    async with a_copier(Timing(tag=1.5, attempts=2)) as copier:
        await copier.copy(loaded.source.reference("v1"), loaded.destination.reference("v1"), confirm=confirm)
    assert len(confirmed) == 2
    assert len(written) == 1
    await loaded.destination.holds("v1", ROOT)


async def test_peace_that_another_request_was_asked_for_is_over_before_it_is_confirmed(loaded: Pair) -> None:
    await loaded.source.push("warm", image(5))
    read = 0
    access = Access(endpoint=f"http://{loaded.destination.host}")
    plain = Access(endpoint=f"http://{loaded.source.host}")
    target = loaded.destination.reference("v1")
    async with Registries(
        lambda repository: access if repository == target.repository else plain, timing=Timing(tag=0.5, attempts=1)
    ) as registries:

        def progress(number: int) -> None:
            nonlocal read
            read += number
            if read == sum(blob.size for blob in blobs_of(image(6))):
                registries.transport(target.repository).limits.throttle(1.0)

        copier = Copier(registries)
        await copier.copy(loaded.source.reference("warm"), loaded.destination.reference("warm"))
        await loaded.source.push("v1", image(6))
        await copier.copy(loaded.source.reference("v1"), target, progress=progress)
    await loaded.destination.holds("v1", image(6))


@pytest.mark.parametrize("how", ["delay", "stall"])
async def test_a_try_to_write_it_ends_in_time(loaded: Pair, how: str) -> None:
    action = Delay(60) if how == "delay" else Cut(None, "stall")
    fault = loaded.destination.faults.add(Fault(action, "PUT", TAG, times=None))
    # The limits of a request are long: only that of the tag ends it.
    async with a_copier(Timing(tag=0.2, attempts=2)) as copier, asyncio.timeout(20):
        with pytest.raises(ConnectionFailed, match=r"not answered in 0\.2 s") as caught:
            await copier.copy(loaded.source.reference("v1"), loaded.destination.reference("v1"))
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert fault.hits == 2


def test_the_limit_of_a_try_is_well_below_a_lease() -> None:
    assert Timing().tag <= 20


async def test_a_refusal_is_not_tried_again(loaded: Pair) -> None:
    fault = loaded.destination.faults.add(Fault(Answer(403, "DENIED", "quota"), "PUT", TAG, times=None))
    confirm = Confirming(loaded)
    with pytest.raises(Denied, match="quota"):
        await loaded.copy(confirm=confirm)
    assert fault.hits == len(confirm.writes) == 1


async def test_tries_end(loaded: Pair) -> None:
    fault = loaded.destination.faults.add(Fault(Answer(500), "PUT", TAG, times=None))
    with pytest.raises(ServerFailed):
        await loaded.copy()
    assert fault.hits == 3


async def test_an_answer_lost_on_the_way_does_no_harm(loaded: Pair) -> None:
    loaded.destination.faults.add(Fault(Cut(None, "reset"), "PUT", TAG, times=2))
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)
