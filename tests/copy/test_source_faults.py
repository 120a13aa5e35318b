"""A source that breaks, lies or redirects: the outcome, and the number of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.copy import SourceNotFound
from replicator.errors import ErrorClass
from replicator.registry import Timing
from replicator.registry.errors import (
    ConnectionFailed,
    DigestMismatch,
    NotFound,
    ProtocolViolated,
    Refused,
    RegistryError,
    ServerFailed,
)
from tests.copy.conftest import PATIENT, Pair, a_copier
from tests.standins.faults import Answer, Corrupt, Cut, Fault, Headers, Raw, Redirect, Trickle
from tests.standins.images import blobs_of, image, multi_arch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.faults import Action

ROOT = image(1, (400_000,))
LAYER = blobs_of(ROOT)[1]
BLOB = f"/blobs/{LAYER.digest}"
SENT = LAYER.digest.replace(":", "%3A")


@pytest.fixture
async def loaded(pair: Pair) -> AsyncIterator[Pair]:
    """A pair whose source has the image; a failed copy leaves no tag behind."""
    await pair.source.push("v1", ROOT)
    pair.expect("v1", ROOT)
    yield pair
    assert not pair.destination.early


async def fails(pair: Pair, kind: type[Exception], match: str | None = None) -> Exception:
    with pytest.raises(kind, match=match) as caught:
        await pair.copy()
    assert not await pair.destination.has_tag("v1")
    assert pair.destination.faults.log.count("PUT", "/manifests/") == 0
    return caught.value


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
async def test_a_blob_that_breaks_twice_goes_on_in_one_upload(loaded: Pair, how: str) -> None:
    loaded.source.faults.add(Fault(Cut(100_000, how), "GET", BLOB))  # type: ignore[arg-type]  # one of three
    loaded.source.faults.add(Fault(Cut(200_000, how), "GET", BLOB))  # type: ignore[arg-type]  # one of three
    if how == "stall":
        loaded.hurry(loaded.source)
    await loaded.copy()
    first, second, third = [entry.begins for entry in loaded.source.faults.log.select("GET", BLOB)]
    assert first == 0 <= second <= 100_000
    assert second <= third <= second + 200_000
    assert how == "reset" or 0 < second < third
    puts = loaded.destination.faults.log.select("PUT", query=SENT)
    assert [(entry.status, entry.request_bytes) for entry in puts] == [(201, LAYER.size)]
    await loaded.destination.holds("v1", ROOT)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "bytes",
        "bytes */400000",
        "items 200000-9/9",
        f"bytes 0-{LAYER.size - 1}/{LAYER.size}",
        f"bytes 200001-{LAYER.size - 1}/{LAYER.size}",
        f"bytes 200000-{LAYER.size - 1}/{LAYER.size + 1}",
        f"bytes {'0' * 5000}200000-{LAYER.size - 1}/{LAYER.size}",
    ],
)
async def test_a_range_that_was_not_requested_is_refused(loaded: Pair, value: str | None) -> None:
    loaded.source.faults.add(Fault(Cut(200_000), "GET", BLOB))
    loaded.source.faults.add(Fault(Headers({"Content-Range": value}), "GET", BLOB, times=None))
    error = await fails(loaded, ProtocolViolated, "Content-Range")
    assert isinstance(error, ProtocolViolated)
    assert (error.error_class, error.registry) == (ErrorClass.PERMANENT, loaded.source.host)
    assert loaded.source.faults.log.count("GET", BLOB) == 2
    assert loaded.destination.faults.log.count("PUT", query=SENT, status=201) == 0


async def test_a_range_that_is_refused_ends_the_copy(loaded: Pair) -> None:
    """The rest of the blob is gone."""
    loaded.source.faults.add(Fault(Cut(200_000), "GET", BLOB))
    lying = Answer(416, body=b"x", headers={"Content-Length": "9999"})
    loaded.source.faults.add(Fault(lying, "GET", BLOB, times=None))
    await fails(loaded, Refused, "416")
    assert loaded.source.faults.log.count("GET", BLOB) == 2


@pytest.mark.parametrize(
    ("method", "path", "at_the_most"),
    [("HEAD", "/manifests/", PATIENT.attempts), ("GET", "/manifests/", PATIENT.attempts), ("GET", BLOB, 6)],
)
@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_source_that_is_down_is_asked_a_few_times_and_left_to_the_queue(
    loaded: Pair, method: str, path: str, at_the_most: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    fault = loaded.source.faults.add(Fault(Answer(status), method, path, times=None))
    error = await fails(loaded, ServerFailed, str(status))
    assert isinstance(error, ServerFailed)
    assert (error.error_class, error.registry) == (ErrorClass.TRANSIENT, loaded.source.host)
    assert 1 < fault.hits <= at_the_most


@pytest.mark.parametrize(
    "action", [Corrupt(0), Corrupt(LAYER.size - 1), Headers({"Content-Length": "399999"})], ids=str
)
async def test_wrong_bytes_are_read_twice_at_the_most(loaded: Pair, action: Action) -> None:
    loaded.source.faults.add(Fault(action, "GET", BLOB, times=None))
    error = await fails(loaded, DigestMismatch, LAYER.digest)
    assert isinstance(error, DigestMismatch)
    assert error.error_class is ErrorClass.PERMANENT
    assert loaded.source.faults.log.count("GET", BLOB) <= 2
    assert loaded.destination.faults.log.count("PUT", query=SENT, status=201) == 0


async def test_a_slow_stream_may_take_longer_than_the_limit_of_a_read(loaded: Pair) -> None:
    loaded.source.faults.add(Fault(Trickle(40_000, 0.25), "GET", BLOB))
    async with a_copier(Timing(read=1.5, write=1.5)) as copier:
        await copier.copy(loaded.source.reference("v1"), loaded.destination.reference("v1"))
    await loaded.destination.holds("v1", ROOT)
    assert loaded.source.faults.log.count("GET", BLOB) == 1


async def test_a_relative_redirect_is_followed_also_for_the_rest_of_a_blob(loaded: Pair) -> None:
    moved = f"../blobs/{LAYER.digest}?moved=a%2Fb"
    loaded.source.faults.add(Fault(Cut(200_000), "GET", BLOB, query="moved"))
    loaded.source.faults.add(Fault(Redirect(location=moved), "GET", BLOB, query="^$", times=None))
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)
    asked = loaded.source.faults.log.select("GET", BLOB)
    assert [entry.query for entry in asked] == ["", "moved=a%2Fb"] * 2
    begins = [entry.begins for entry in asked]
    assert begins == [0, 0, begins[2], begins[2]]
    assert 0 < begins[2] <= 200_000


@pytest.mark.parametrize("path", ["/manifests/", BLOB])
async def test_redirects_in_a_circle_end_the_copy(loaded: Pair, path: str) -> None:
    fault = loaded.source.faults.add(Fault(Redirect(), "GET", path, times=None))
    await fails(loaded, ProtocolViolated, "redirects")
    assert fault.hits == 6


@pytest.mark.parametrize("length", ["Content-Length: 5000000\r\n", ""])
async def test_a_manifest_is_read_up_to_what_a_registry_must_take(loaded: Pair, length: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {ROOT.media_type}\r\n{length}\r\n"
    fault = loaded.source.faults.add(
        Fault(Raw(head.encode() + b" " * 5_000_000), "GET", "/manifests/", times=None),
    )
    error = await fails(loaded, ProtocolViolated, "larger than 4194304 bytes")
    assert isinstance(error, ProtocolViolated)
    assert error.error_class is ErrorClass.PERMANENT
    assert fault.hits == 1


async def test_a_tag_with_the_digest_of_a_missing_image_is_not_found(loaded: Pair) -> None:
    loaded.source.faults.add(Fault(Headers({"Docker-Content-Digest": image(2).digest}), "HEAD", times=None))
    await fails(loaded, SourceNotFound)


async def test_the_requested_digest_counts_and_not_the_one_in_the_answer(loaded: Pair) -> None:
    loaded.source.faults.add(Fault(Headers({"Docker-Content-Digest": image(2).digest}), "GET", times=None))
    assert (await loaded.copy()).digest == ROOT.digest


async def test_a_blob_that_the_source_lost_is_an_error_at_once(loaded: Pair) -> None:
    await loaded.source.delete(f"blobs/{LAYER.digest}")
    error = await fails(loaded, NotFound, LAYER.digest)
    assert isinstance(error, RegistryError)
    assert error.registry == loaded.source.host
    assert loaded.source.faults.log.count("GET", BLOB) == 1


async def test_a_child_that_is_another_manifest_is_refused(pair: Pair) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    wrong = Answer(200, body=root.content, headers={"Content-Type": root.media_type})
    # An index that would contain itself: no digest can match that.
    pair.source.faults.add(Fault(wrong, "GET", f"/manifests/{root.children[0].digest}", times=None))
    await fails(pair, DigestMismatch, root.children[0].digest)


async def test_a_source_that_ends_after_its_headers_is_left_to_the_queue(
    loaded: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    loaded.source.faults.add(Fault(Cut(0), "GET", BLOB, times=None))
    error = await fails(loaded, ConnectionFailed)
    assert isinstance(error, ConnectionFailed)
    assert error.registry == loaded.source.host
    assert loaded.source.faults.log.count("GET", BLOB) <= 8
