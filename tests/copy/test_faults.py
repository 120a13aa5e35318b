"""Faults: transient ones are overcome, others are errors at once, and a tag is never wrong."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from replicator.errors import ErrorClass
from replicator.registry import Timing
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    DigestMismatch,
    ManifestIncomplete,
    NotFound,
    NotYet,
    ProtocolViolated,
    RegistryError,
    ServerFailed,
    TooManyRequests,
    UnsupportedManifest,
)
from tests.copy.conftest import Pair, Registry, a_copier, a_registry
from tests.standins.faults import Answer, Corrupt, Cut, CutUpload, Delay, Fault, FaultLayer, Headers, Redirect
from tests.standins.images import blobs_of, image, index, multi_arch
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = multi_arch(1, size=400_000)
SHARED = max(blobs_of(ROOT), key=lambda blob: blob.size)
UPLOAD = "/blobs/uploads/"
SOON = {"Retry-After": "1"}


def _date() -> dict[str, str]:
    return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)}


@pytest.fixture
async def loaded(pair: Pair) -> AsyncIterator[Pair]:
    """A pair whose source has the image, and whose destination watches its tag."""
    await pair.source.push("v1", ROOT)
    pair.expect("v1", ROOT)
    yield pair
    assert not pair.destination.early


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Cut(200_000), "GET", "/blobs/"),
        Fault(Cut(200_000, "reset"), "GET", "/blobs/", times=3),
        Fault(Cut(200_000, "stall"), "GET", "/blobs/"),
        Fault(Cut(10), "GET", "/manifests/", times=2),
        Fault(Answer(503), "HEAD", "/manifests/", times=2),
        Fault(Answer(500), "GET", times=2),
        Fault(Answer(429, headers={"Retry-After": "0"}), "GET", "/blobs/", times=3),
        Fault(Corrupt(200_000), "GET", f"/blobs/{SHARED.digest}", times=1),
        Fault(Answer(200, body=b"x"), "GET", f"/blobs/{SHARED.digest}", times=1),
        Fault(Delay(0.5), "GET", times=3),
    ],
    ids=lambda fault: f"{fault.method}-{fault.action}",
)
async def test_transient_faults_of_the_source_are_overcome(loaded: Pair, fault: Fault) -> None:
    loaded.source.faults.add(_fresh(fault))
    if "stall" in str(fault.action):
        loaded.hurry(loaded.source)
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Answer(503), "HEAD", times=2),
        Fault(Answer(429, headers=SOON), "POST"),
        Fault(Answer(503, headers=SOON), "POST", times=2),
        Fault(Cut(None), "POST", times=2),
        Fault(CutUpload(100_000, "close"), "PUT", UPLOAD),
        Fault(CutUpload(100_000, "reset"), "PUT", UPLOAD, times=3),
        Fault(CutUpload(100_000, "stall"), "PUT", UPLOAD),
        Fault(CutUpload(100_000, Answer(429, headers=SOON)), "PUT", UPLOAD),
        Fault(CutUpload(100_000, Answer(401)), "PUT", UPLOAD),
        Fault(CutUpload(100_000, Answer(500)), "PUT", UPLOAD, times=2),
        Fault(Answer(404, "BLOB_UPLOAD_UNKNOWN"), "PUT", UPLOAD, times=2),
        Fault(Answer(416), "PUT", UPLOAD),
        Fault(Cut(None), "PUT", UPLOAD, times=2),
        Fault(Answer(429, headers=SOON), "PUT", "/manifests/sha256:"),
        Fault(Answer(429, headers=SOON), "PUT", "/manifests/v1$", times=2),
        Fault(Answer(503), "PUT", "/manifests/", times=2),
        Fault(Cut(None), "PUT", "/manifests/v1$", times=2),
        Fault(Cut(None, "stall"), "PUT", "/manifests/v1$"),
        Fault(Answer(404, "MANIFEST_BLOB_UNKNOWN"), "PUT", "/manifests/sha256:"),
        Fault(Answer(400, "MANIFEST_UNKNOWN"), "PUT", "/manifests/v1$"),
    ],
    ids=lambda fault: f"{fault.method}-{fault.action}",
)
async def test_transient_faults_of_the_destination_are_overcome(loaded: Pair, fault: Fault) -> None:
    loaded.destination.faults.add(_fresh(fault))
    if "stall" in str(fault.action):
        loaded.hurry(loaded.destination)
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)


@pytest.mark.parametrize("path", ["/blobs/uploads/$", UPLOAD + ".", "/manifests/sha256:", "/manifests/v1$"])
async def test_a_retry_after_may_be_a_date(loaded: Pair, path: str) -> None:
    loaded.destination.faults.add(Fault(Answer(429, headers=_date()), None, path))
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)


async def test_a_broken_source_is_resumed_inside_the_running_upload(loaded: Pair) -> None:
    loaded.source.faults.add(Fault(Cut(200_000), "GET", f"/blobs/{SHARED.digest}"))
    await loaded.copy()
    gets = loaded.source.faults.log.select("GET", f"/blobs/{SHARED.digest}")
    first, rest = gets
    assert first.begins == 0 < rest.begins <= 200_000
    puts = loaded.destination.faults.log.select("PUT", query=SHARED.digest.replace(":", "%3A"))
    assert [(entry.status, entry.request_bytes) for entry in puts] == [(201, SHARED.size)]


async def test_a_source_without_ranges_is_read_from_the_start(loaded: Pair) -> None:
    loaded.source.faults.add(Fault(Cut(200_000), "GET", f"/blobs/{SHARED.digest}"))
    loaded.source.faults.add(Fault(Answer(200, body=SHARED.read()), "GET", f"/blobs/{SHARED.digest}", after=0))
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)
    assert loaded.destination.faults.log.count("PUT", query=SHARED.digest.replace(":", "%3A")) == 1


async def test_corrupt_bytes_of_the_source_end_the_copy_after_two_attempts(loaded: Pair) -> None:
    loaded.source.faults.add(Fault(Corrupt(300_000), "GET", f"/blobs/{SHARED.digest}", times=None))
    with pytest.raises(DigestMismatch, match=SHARED.digest) as caught:
        await loaded.copy()
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert caught.value.registry == loaded.source.host
    assert loaded.source.faults.log.count("GET", f"/blobs/{SHARED.digest}") == 2
    assert loaded.destination.faults.log.count("PUT", status=201, query=SHARED.digest.replace(":", "%3A")) == 0
    assert not await loaded.destination.has_tag("v1")


@pytest.mark.parametrize("at", ["/manifests/v1$", f"/manifests/{ROOT.digest}", "/manifests/sha256:"])
async def test_a_corrupt_manifest_never_gets_a_tag(loaded: Pair, at: str) -> None:
    loaded.source.faults.add(Fault(Corrupt(40), "GET", at, times=None))
    if at == "/manifests/v1$":
        # The image is read by digest, so the answer for the tag does not matter.
        await loaded.copy()
        return
    with pytest.raises(DigestMismatch):
        await loaded.copy()
    assert not await loaded.destination.has_tag("v1")


@pytest.mark.parametrize(
    ("end", "fault", "kind", "error_class"),
    [
        ("destination", Fault(Answer(403, "DENIED"), "PUT", "/manifests/sha"), Denied, ErrorClass.PERMANENT),
        ("destination", Fault(Answer(403, "DENIED"), "PUT", "/manifests/v1"), Denied, ErrorClass.PERMANENT),
        ("destination", Fault(Answer(403, "DENIED"), "POST"), Denied, ErrorClass.PERMANENT),
        ("source", Fault(Answer(412, "PROJECTPOLICYVIOLATION"), "GET"), NotYet, ErrorClass.NOT_YET),
        ("source", Fault(Answer(404, "BLOB_UNKNOWN"), "GET", "/blobs/"), NotFound, ErrorClass.PERMANENT),
    ],
)
async def test_what_can_not_succeed_is_attempted_once(
    loaded: Pair, end: str, fault: Fault, kind: type[RegistryError], error_class: ErrorClass
) -> None:
    registry: Registry = getattr(loaded, end)
    fault = registry.faults.add(Fault(fault.action, fault.method, fault.path, times=None))
    with pytest.raises(kind) as caught:
        await loaded.copy()
    assert caught.value.error_class is error_class
    assert caught.value.registry == registry.host
    # Several parts may have met it concurrently, none of them twice.
    assert fault.hits == len({entry.path for entry in registry.faults.log if entry.status == caught.value.status}) or (
        # A refused mount is not a refused push: each blob in progress asks once more, for an upload.
        fault.method == "POST" and fault.hits <= 2 * sum(len(blobs_of(child)) for child in ROOT.children)
    )
    assert not await loaded.destination.has_tag("v1")


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (Answer(503), ServerFailed),
        (Answer(429, headers={"Retry-After": "0"}), TooManyRequests),
        (CutUpload(100, "reset"), ConnectionFailed),
        (Answer(404, "MANIFEST_BLOB_UNKNOWN"), ManifestIncomplete),
    ],
)
async def test_a_lasting_fault_is_left_to_the_queue_after_some_attempts(
    loaded: Pair, action: Answer | CutUpload, kind: type[RegistryError]
) -> None:
    fault = loaded.destination.faults.add(Fault(action, "PUT", "/manifests/v1$", times=None))
    with pytest.raises(kind) as caught:
        await loaded.copy()
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert 2 <= fault.hits <= 8
    assert not await loaded.destination.has_tag("v1")


async def test_a_long_retry_after_is_left_to_the_queue(loaded: Pair) -> None:
    for path in ("/manifests/v1$", "/blobs/uploads/$"):
        loaded.destination.faults.faults.clear()
        fault = loaded.destination.faults.add(
            Fault(Answer(429, headers={"Retry-After": "600"}), None, path, times=None)
        )
        async with a_copier() as copier:
            with pytest.raises(TooManyRequests) as caught:
                await copier.copy(loaded.source.reference("v1"), loaded.destination.reference("v1"))
        assert caught.value.retry_after == 600
        assert 1 <= fault.hits <= len(blobs_of(ROOT))


async def test_a_wrong_digest_after_a_write_is_an_error(loaded: Pair) -> None:
    wrong = Headers({"Docker-Content-Digest": "sha256:" + "0" * 64})
    loaded.destination.faults.add(Fault(wrong, "PUT", "/manifests/sha256:"))
    with pytest.raises(ProtocolViolated, match="stored"):
        await loaded.copy()
    assert not await loaded.destination.has_tag("v1")


async def test_a_manifest_without_end_is_not_read(loaded: Pair) -> None:
    body = b" " * (5 * 1024 * 1024)
    loaded.source.faults.add(Fault(Answer(200, body=body), "GET", "/manifests/", times=None))
    with pytest.raises(ProtocolViolated, match="larger than"):
        await loaded.copy()


async def test_one_part_that_can_not_be_copied_cancels_the_others(pair: Pair) -> None:
    root = index([image(1, (3_000_000,)), image(2, (3_000_000,)), image(3)])
    await pair.source.push("v1", root)
    slow = [blob for child in root.children for blob in blobs_of(child) if blob.size > 1_000_000]
    for blob in slow:
        pair.source.faults.add(Fault(Delay(30), "GET", blob.digest, times=None))
    pair.source.faults.add(Fault(Answer(403, "DENIED"), "GET", root.children[2].digest, times=None))
    async with asyncio.timeout(30):
        with pytest.raises(Denied):
            await pair.copy()


async def test_indexes_nested_without_end_are_refused(pair: Pair) -> None:
    root = index([image(1)])
    for _ in range(6):
        root = index([root])
    await pair.source.push("v1", root)
    with pytest.raises(UnsupportedManifest, match="nested"):
        await pair.copy()


@pytest.mark.parametrize("end", ["source", "destination"])
async def test_a_registry_that_never_answers_meets_a_deadline(loaded: Pair, end: str) -> None:
    registry: Registry = getattr(loaded, end)
    for method, path in (("HEAD", None), ("GET", "/blobs/"), ("PUT", UPLOAD), ("PUT", "/manifests/v1$")):
        if end == "source" and method == "PUT":
            continue
        if end == "destination" and method == "GET":
            continue
        registry.faults.faults.clear()
        registry.faults.add(Fault(CutUpload(10, "stall"), method, path, times=None))
        async with a_copier() as copier, asyncio.timeout(60):
            impatient = Pair(loaded.source, loaded.destination, copier)
            impatient.hurry(registry, Timing(connect=0.5, read=0.2, write=0.2, commit=0.2, tag=0.2, attempts=2))
            with pytest.raises(ConnectionFailed) as caught:
                await impatient.copy()
        assert caught.value.registry == registry.host


async def test_a_copy_that_is_cancelled_leaves_others_to_go_on(loaded: Pair) -> None:
    fault = loaded.source.faults.add(Fault(Cut(100_000, "stall"), "GET", f"/blobs/{SHARED.digest}"))
    async with asyncio.timeout(30):
        first = asyncio.create_task(loaded.copy())
        while not fault.hits:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(loaded.copy())
        while loaded.destination.faults.log.count("HEAD", "/manifests/v1$") < 2:
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
    await loaded.destination.holds("v1", ROOT)


async def test_redirected_blobs_are_read_without_a_login(loaded: Pair) -> None:
    async with Upstream(loaded.source.plain) as upstream:
        storage = FaultLayer(upstream.forward)
        async with serve(storage) as host:
            loaded.source.faults.add(Fault(Redirect(f"http://{host}"), "GET", "/blobs/", times=None))
            storage.add(Fault(Cut(200_000), "GET", SHARED.digest))
            await loaded.copy()
    assert all("Authorization" not in entry.headers for entry in storage.log)
    await loaded.destination.holds("v1", ROOT)


async def test_blobs_sent_before_an_outage_are_not_sent_by_the_next_attempt(pair: Pair) -> None:
    root = image(1, (100_000, 200_000, 300_000))
    await pair.source.push("v1", root)
    pair.destination.faults.add(Fault(Answer(503), "PUT", "/manifests/", times=None))
    with pytest.raises(ServerFailed):
        await pair.copy()
    pair.destination.faults.faults.clear()
    pair.clear()
    outcome = await pair.copy()
    assert (outcome.blobs_copied, outcome.bytes) == (0, 0)
    assert pair.source.faults.log.count("GET", "/blobs/") == 0
    async with a_registry() as empty:
        # Entries of one registry do not count for another.
        await pair.copier.copy(pair.source.reference("v1"), empty.reference("v1"))
        await empty.holds("v1", root)


def _fresh(fault: Fault) -> Fault:
    return Fault(fault.action, fault.method, fault.path, fault.query, fault.times, fault.after)
