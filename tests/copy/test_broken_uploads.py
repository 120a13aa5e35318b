"""Uploads that break: where the registry keeps what it has of them, they go on from there."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from replicator.copy.blobs import limit_of
from replicator.errors import ErrorClass
from replicator.registry.errors import ConnectionFailed, Cut, DigestMismatch
from tests.copy.conftest import PATIENT, Pair, Registry, a_copier, a_registry
from tests.standins import faults as spoil
from tests.standins.distribution import reused_distribution
from tests.standins.faults import Answer, Corrupt, CutUpload, Fault, FaultLayer
from tests.standins.images import blobs_of, image
from tests.standins.proxy import Upstream
from tests.standins.server import serve
from tests.standins.uploads import Break, KeptUploads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.faults import How

PART = 512 * 1024
ROOT = image(1, (6 * PART,))
LAYER = blobs_of(ROOT)[1]
ALL = sum(blob.size for blob in blobs_of(ROOT))
SENT = LAYER.digest.replace(":", "%3A")


class Keeping(Registry):
    """A registry that keeps uploads that broke."""

    def __init__(self, plain: str, upstream: Upstream) -> None:
        super().__init__(plain, upstream)
        self.uploads = KeptUploads(upstream)
        self.faults = FaultLayer(self.uploads)

    def requests(self) -> list[str]:
        """The methods of what was asked about the layer's upload, in order."""
        (path,) = {entry.path for entry in self.faults.log.select("PUT", query=SENT)}
        return [entry.method for entry in self.faults.log.select(path=path)]


class KeptPair(Pair):
    """A pair whose destination keeps uploads that broke."""

    destination: Keeping


@asynccontextmanager
async def a_keeping_registry() -> AsyncIterator[Keeping]:
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(reused_distribution())
        registry = Keeping(plain, await stack.enter_async_context(Upstream(plain)))
        registry.host = await stack.enter_async_context(serve(registry.faults))
        yield registry


@pytest.fixture
async def kept(monkeypatch: pytest.MonkeyPatch, way: str) -> AsyncIterator[KeptPair]:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.01)
    async with a_registry() as source, a_keeping_registry() as destination, a_copier(PATIENT) as copier:
        await source.push("v1", ROOT)
        yield KeptPair(source, destination, copier)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("lost", [0, PART])
async def test_an_upload_goes_on_where_the_registry_has_it(kept: KeptPair, how: How, lost: int) -> None:
    kept.destination.uploads.breaks.append(Break(5 * PART, how, lost))
    outcome = await kept.copy()
    await kept.destination.holds("v1", ROOT)
    assert kept.destination.requests() == ["PUT", "GET", "PUT"]
    assert kept.destination.uploads.taken == ALL + lost
    assert outcome.bytes == ALL
    rest = kept.destination.faults.log.select("PUT", query=SENT)[1]
    assert rest.headers["Content-Range"] == f"{5 * PART - lost}-{LAYER.size - 1}"
    # The source is read from a little before that, and not from the start.
    again = kept.source.faults.log.select("GET", LAYER.digest)[1]
    assert 2 * PART - lost < again.begins <= 5 * PART - lost


async def test_an_upload_breaks_any_number_of_times_as_long_as_it_moves(kept: KeptPair) -> None:
    kept.destination.uploads.breaks.extend([Break(PART // 2, lost=1000)] * 11)
    await kept.copy()
    await kept.destination.holds("v1", ROOT)
    assert kept.destination.requests() == ["PUT", *["GET", "PUT"] * 11]
    assert kept.destination.uploads.taken == ALL + 11 * 1000


async def test_a_break_of_the_source_while_an_upload_goes_on_is_resumed(kept: KeptPair) -> None:
    kept.destination.uploads.breaks.append(Break(3 * PART, lost=1000))
    kept.source.faults.add(Fault(spoil.Cut(100_000), "GET", LAYER.digest, after=1, times=2))
    await kept.copy()
    await kept.destination.holds("v1", ROOT)
    assert kept.destination.uploads.taken == ALL + 1000


async def test_an_upload_whose_answer_was_lost_is_finished_without_a_byte(kept: KeptPair) -> None:
    kept.destination.faults.add(Fault(spoil.Cut(None), "PUT", query=SENT))
    kept.destination.uploads.breaks.append(Break(LAYER.size - 1))
    await kept.copy()
    await kept.destination.holds("v1", ROOT)
    assert kept.destination.uploads.taken == ALL


@pytest.mark.parametrize("at", [0, 4000])
async def test_other_bytes_at_the_second_reading_never_complete_an_upload(kept: KeptPair, at: int) -> None:
    """Both before and after the byte from which the upload goes on."""
    kept.destination.uploads.breaks.extend([Break(3 * PART, lost=1000), Break(3 * PART, lost=1000)])
    kept.source.faults.add(Fault(Corrupt(at), "GET", LAYER.digest, after=1, times=1))
    kept.source.faults.add(Fault(Corrupt(at), "GET", LAYER.digest, after=1, times=1))
    with pytest.raises(DigestMismatch) as caught:
        await kept.copy()
    assert caught.value.registry == kept.source.host
    assert kept.destination.faults.log.count("PUT", query=SENT, status=201) == 0
    assert not await kept.destination.has_tag("v1")


async def test_what_an_upload_is_made_of_is_verified_even_if_the_registry_trusts_it(kept: KeptPair) -> None:
    """The first reading is wrong right before the byte from which the upload goes on, the second one is right."""
    kept.destination.uploads.trusts = True
    kept.destination.uploads.breaks.append(Break(3 * PART, lost=1000))
    kept.source.faults.add(Fault(Corrupt(3 * PART - 1010), "GET", LAYER.digest))
    await kept.copy()
    await kept.destination.holds("v1", ROOT)
    first, *_, last = kept.destination.faults.log.select("PUT", query=SENT)
    assert [entry.path for entry in kept.destination.faults.log.select("PUT", query=SENT, status=201)] == [last.path]
    assert first.path != last.path


async def test_a_registry_that_refuses_the_rest_is_sent_the_whole_and_not_asked_again(kept: KeptPair) -> None:
    kept.destination.uploads.refuses = True
    kept.destination.uploads.breaks.extend([Break(3 * PART), Break(4 * PART)])
    await kept.copy()
    await kept.destination.holds("v1", ROOT)
    log = kept.destination.faults.log
    assert log.count("GET", "/blobs/uploads/") == 1
    assert len({entry.path for entry in log.select("PUT", query=SENT)}) == 3


async def test_a_session_that_can_not_be_asked_for_now_is_asked_for_again(kept: KeptPair) -> None:
    kept.destination.uploads.breaks.append(Break(3 * PART))
    kept.destination.faults.add(Fault(Answer(502), "GET", "/blobs/uploads/", times=3))
    await kept.copy()
    await kept.destination.holds("v1", ROOT)
    assert kept.destination.uploads.taken == ALL


async def test_an_upload_that_stops_getting_further_ends(kept: KeptPair) -> None:
    # Not of the config, which fits into one request.
    kept.destination.uploads.breaks.extend([Break(3 * PART), *[Break(PART, lost=PART)] * 100])
    with pytest.raises(ConnectionFailed, match=r", after [0-9.]+ [kM]B of 3\.1 MB") as caught:
        await kept.copy()
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert len(kept.destination.uploads.breaks) > 50


async def test_an_upload_at_a_registry_that_keeps_none_begins_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.01)
    await pair.source.push("v1", ROOT)
    fault = pair.destination.faults.add(Fault(CutUpload(2 * PART, "reset"), "PUT", query=SENT, times=None))
    with pytest.raises(ConnectionFailed, match=r", after [0-9.]+ [kM]B of 3\.1 MB"):
        await pair.copy()
    assert fault.hits == 4
    assert len({entry.path for entry in pair.destination.faults.log.select("PUT", query=SENT)}) == 4


SIZE, TIME = "client_max_body_size", "proxy_send_timeout, proxy_read_timeout"


@pytest.mark.parametrize(
    ("cuts", "why", "do"),
    [
        (
            [(104, 70), (100, 31), (101, 45)],
            "each time at about 104 MB (3 times)",
            f"a proxy seems to limit a body: raise it (nginx: {SIZE})",
        ),
        (
            [(30, 61), (200, 60)],
            "each time after about 61 s (2 times)",
            f"a proxy seems to limit a request's time: raise it (nginx: {TIME})",
        ),
        (
            [(90, 60), (91, 60)],
            "each time at about 91 MB and after about 60 s (2 times)",
            f"a proxy seems to limit a body or a request's time: raise it (nginx: {SIZE}, {TIME})",
        ),
        ([(104, 70), (10, 31)], "", ""),
        ([(400, 70), (400, 31)], "", ""),
        ([(0.2, 1), (0.2, 1)], "", ""),
        ([(104, 70)], "", ""),
        ([], "", ""),
    ],
)
def test_uploads_that_are_cut_off_alike_get_advice(cuts: list[tuple[float, float]], why: str, do: str) -> None:
    assert limit_of([Cut(int(megabytes * 1e6), seconds) for megabytes, seconds in cuts], 400_000_000) == (why, do)
