"""A destination that breaks, refuses or throttles: the outcome, and the number of requests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Copier
from replicator.errors import ErrorClass
from replicator.registry import Access, Registries
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    ForeignAnswer,
    ProtocolViolated,
    Refused,
    RegistryError,
    ServerFailed,
    UploadLost,
)
from tests.copy.conftest import PATIENT, Pair
from tests.standins.faults import Answer, Cut, CutUpload, Fault, Headers, Raw, Redirect, Trickle
from tests.standins.images import blobs_of, fetch_raw, image, multi_arch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.faults import Action

ROOT = image(1, (400_000,))
LAYER = blobs_of(ROOT)[1]
SENT = LAYER.digest.replace(":", "%3A")
UPLOAD = "/blobs/uploads/"


@pytest.fixture
async def loaded(pair: Pair) -> AsyncIterator[Pair]:
    """A pair whose source has the image, and whose destination watches its tag."""
    await pair.source.push("v1", ROOT)
    pair.expect("v1", ROOT)
    yield pair
    assert not pair.destination.early


def _headers(form: str, seconds: int) -> dict[str, str]:
    if form == "date":
        return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)}
    return {"Retry-After": str(seconds)} if form == "seconds" else {}


PLACES = {
    "HEAD": ("HEAD", "/manifests/"),
    "POST": ("POST", UPLOAD),
    "blob": ("PUT", UPLOAD),
    "child": ("PUT", "/manifests/sha256:"),
    "tag": ("PUT", "/manifests/v[0-9]$"),
}


@pytest.mark.parametrize(
    ("status", "form", "places"),
    [(429, "seconds", (*PLACES,)), (429, "date", ("POST",)), (503, "seconds", ("blob",)), (503, "unsaid", ("tag",))],
)
async def test_a_request_is_sent_once_more_after_the_retry_after(
    pair: Pair, status: int, form: str, places: tuple[str, ...]
) -> None:
    log = pair.destination.faults.log
    for number, place in enumerate(places):
        method, path = PLACES[place]
        tag, root = f"v{number}", multi_arch(number + 1)
        await pair.source.push(tag, root)
        pair.expect(tag, root)
        pair.clear()
        action = Answer(status, headers=_headers(form, 1))
        fault = pair.destination.faults.add(Fault(action, method, path))
        await pair.copy(tag)
        await pair.destination.holds(tag, root)
        assert fault.hits == 1
        # Nothing else was repeated.
        floor = {"HEAD": 1, "blob": len(blobs_of(root)), "child": len(root.children), "tag": 1}
        for name, (one_method, one_path) in PLACES.items():
            if name in floor:
                sent = log.count(one_method, one_path.replace("v[0-9]", tag))
                assert sent == floor[name] + (place == name), name


@pytest.mark.parametrize(("place", "form"), [*((place, "seconds") for place in PLACES), ("tag", "date")])
async def test_nothing_is_sent_until_the_retry_after_is_over(pair: Pair, place: str, form: str) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    method, path = PLACES[place]
    fault = pair.destination.faults.add(Fault(Answer(429, headers=_headers(form, 40)), method, path, times=None))
    copy = asyncio.create_task(pair.copy())
    async with asyncio.timeout(20):
        while not fault.hits:
            await asyncio.sleep(0.01)
    # What was on its way at that moment may still arrive. A copier that went on would fail within a few attempts.
    log, sent = pair.destination.faults.log, -1
    async with asyncio.timeout(20):
        while sent < len(log):
            sent = len(log)
            await asyncio.sleep(0.5)
    await asyncio.sleep(0.5)
    assert len(log) == sent
    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy


@pytest.mark.parametrize(
    ("action", "statuses"),
    [
        (CutUpload(100_000, "close"), [None, 201]),
        (CutUpload(100_000, "reset"), [None, 201]),
        (CutUpload(100_000, "stall"), [None, 201]),
        (CutUpload(LAYER.size, "stall"), [None, 201]),
        (CutUpload(100_000, Answer(404, "BLOB_UPLOAD_UNKNOWN")), [404, 201]),
        (Answer(404, "BLOB_UPLOAD_UNKNOWN"), [404, 201]),
        (Answer(400, "BLOB_UPLOAD_INVALID"), [400, 201]),
        (CutUpload(100_000, Answer(416, body=b"x", headers={"Content-Length": "99999"})), [416, 201]),
        (CutUpload(100_000, Raw(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")), [None, 201]),
    ],
    ids=str,
)
async def test_an_upload_that_is_lost_is_repeated_once(
    loaded: Pair, action: Action, statuses: list[int | None]
) -> None:
    loaded.destination.faults.add(Fault(action, "PUT", query=SENT))
    if "stall" in str(action):
        loaded.hurry(loaded.destination)
    async with asyncio.timeout(30):
        await loaded.copy()
    puts = loaded.destination.faults.log.select("PUT", query=SENT)
    assert [entry.status for entry in puts] == statuses
    # A new session each time, and the old one cancelled.
    assert len({entry.path for entry in puts}) == 2
    assert loaded.destination.faults.log.count("DELETE", puts[0].path) == 1
    assert loaded.destination.faults.log.count("PUT", UPLOAD) == len(blobs_of(ROOT)) + 1
    await loaded.destination.holds("v1", ROOT)


@pytest.mark.parametrize("form", ["absolute", "relative"])
async def test_a_location_is_used_as_it_came(loaded: Pair, form: str) -> None:
    given: list[str] = []

    def odd(location: str) -> str:
        if form == "relative":
            location = location.removeprefix(f"http://{loaded.destination.host}")
            assert location.startswith("/v2/")
        if "/uploads/" not in location:
            # The location of a blob that was mounted.
            return location
        location += "&z=%7E&space=a%20b+c&slash=a%2Fb%2fc&equals=a%3D%3D"
        given.append(location.partition("?")[2])
        return location

    loaded.destination.faults.add(Fault(Headers({"Location": odd}), "POST", times=None))
    await loaded.copy()
    await loaded.destination.holds("v1", ROOT)
    assert all(query.startswith("_state=") for query in given)
    sent = [entry.query.rpartition("&digest=")[0] for entry in loaded.destination.faults.log.select("PUT", UPLOAD)]
    assert sorted(sent) == sorted(given)
    assert len(sent) == len(blobs_of(ROOT))


async def test_a_location_without_a_query_is_given_one(loaded: Pair) -> None:
    loaded.destination.faults.add(Fault(Answer(202, headers={"Location": "/up/1"}), "POST", times=None))
    loaded.destination.faults.add(Fault(CutUpload(LAYER.size, Answer(403)), "PUT", "^/up/1$", times=None))
    with pytest.raises(Denied):
        await loaded.copy()
    assert all(entry.query.startswith("digest=sha256%3A") for entry in loaded.destination.faults.log.select("PUT"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", UPLOAD),
        ("PUT", UPLOAD),
        ("PUT", "/manifests/sha256:"),
        ("PUT", "/manifests/v1$"),
    ],
)
@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(403, "DENIED", "quota"), Denied, "DENIED: quota"),
        (Answer(413), Refused, "413.*client_max_body_size"),
    ],
    ids=["403", "413"],
)
async def test_what_is_refused_for_good_is_sent_once(
    pair: Pair, method: str, path: str, answer: Answer, kind: type[RegistryError], words: str
) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    fault = pair.destination.faults.add(Fault(answer, method, path, times=None))
    with pytest.raises(kind, match=words) as caught:
        await pair.copy()
    assert (caught.value.error_class, caught.value.registry) == (ErrorClass.PERMANENT, pair.destination.host)
    assert caught.value.request.startswith(f"{method} /v2/team/app/")
    struck = pair.destination.faults.log.select(method, path)
    if method == "POST":
        # With and without the question whether the blob is there; and a blob that two children share may be tried for
        # both before the first refusal ends the others.
        assert fault.hits <= 2 * sum(len(blobs_of(child)) for child in root.children)
    else:
        assert fault.hits == len({(entry.path, entry.query) for entry in struck})
    assert not await pair.destination.has_tag("v1")


@pytest.mark.parametrize("then", ["close", "stall"])
async def test_a_refusal_before_the_body_was_sent_is_read(loaded: Pair, then: str) -> None:
    early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\nno more"
    loaded.destination.faults.add(
        Fault(CutUpload(1000, Raw(early, then=then)), "PUT", UPLOAD, times=None)  # type: ignore[arg-type]  # one of two
    )
    with pytest.raises(ForeignAnswer, match="no more"):
        await loaded.copy()
    assert not await loaded.destination.has_tag("v1")


async def test_an_upload_confirmed_too_early_is_not_trusted(loaded: Pair) -> None:
    early = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    loaded.source.faults.add(Fault(Trickle(100_000, 0.1), "GET", LAYER.digest, times=None))
    loaded.destination.faults.add(Fault(CutUpload(1000, Raw(early, then="stall")), "PUT", query=SENT, times=None))
    with pytest.raises(ProtocolViolated, match=r"before the blob was sent, after [0-9.]+ "):
        await loaded.copy()
    assert loaded.destination.faults.log.count("PUT", "/manifests/") == 0


@pytest.mark.parametrize("part", ["image", "child"])
async def test_a_blob_that_the_destination_lost_is_forgotten_and_sent_once(pair: Pair, part: str) -> None:
    old, new = (image(1), image(2, base=image(1).blobs[1:])) if part == "image" else (multi_arch(1), multi_arch(1))
    await pair.source.push("v1", old)
    await pair.copy()
    lost = blobs_of(old)[1]
    await pair.destination.delete(f"blobs/{lost.digest}")
    if part == "child":
        for one in old.children:  # type: ignore[union-attr]  # an index
            await pair.destination.delete(f"manifests/{one.digest}")
        await pair.destination.delete(f"manifests/{old.digest}")
    await pair.source.push("v2", new)
    pair.clear()
    await pair.copy("v2")
    await pair.destination.holds("v2", new)
    log = pair.destination.faults.log
    assert log.count("PUT", "/manifests/v2$") == 2
    assert log.count("PUT", query=lost.digest.replace(":", "%3A")) == 1
    assert pair.source.faults.log.count("GET", f"/blobs/{lost.digest}") == 1
    for entry in log.select("PUT", "/manifests/sha256:"):
        assert log.count("PUT", entry.path) <= 2


@pytest.mark.parametrize("answers", [[400, 201], [400, 400, 201], [400, 400, 400]], ids=str)
async def test_a_destination_that_never_finds_the_parts_is_sent_them_a_few_times(
    loaded: Pair, answers: list[int]
) -> None:
    fault = Fault(Answer(400, "MANIFEST_BLOB_UNKNOWN"), "PUT", "/manifests/v1$", times=answers.count(400))
    loaded.destination.faults.add(fault)
    if answers[-1] == 201:
        await loaded.copy()
    else:
        with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
            await loaded.copy()
    log = loaded.destination.faults.log
    assert [entry.status for entry in log.select("PUT", "/manifests/v1$")] == answers


async def test_a_repair_of_a_tag_gives_it_no_further_attempts(loaded: Pair) -> None:
    attempts = PATIENT.attempts
    faults = loaded.destination.faults
    faults.add(Fault(Answer(503), "PUT", "/manifests/v1$", times=attempts - 1))
    faults.add(Fault(Answer(400, "MANIFEST_BLOB_UNKNOWN"), "PUT", "/manifests/v1$", times=1))
    faults.add(Fault(Answer(503), "PUT", "/manifests/v1$", times=None))
    with pytest.raises(ServerFailed):
        await loaded.copy()
    assert [entry.status for entry in faults.log.select("PUT", "/manifests/v1$")] == [503] * (attempts - 1) + [400, 503]


async def test_a_tag_that_was_stored_as_something_else_is_an_error_that_is_not_repeated(loaded: Pair) -> None:
    """The registry has written its tag by then, which nothing can undo, so the error is permanent."""
    wrong = "sha256:" + "0" * 64
    loaded.destination.faults.add(Fault(Headers({"Docker-Content-Digest": wrong}), "PUT", "/manifests/v1$"))
    with pytest.raises(ProtocolViolated, match=f"sent {ROOT.digest}, the registry stored '{wrong}'") as caught:
        await loaded.copy()
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert loaded.destination.faults.log.count("PUT", "/manifests/v1$") == 1
    assert await fetch_raw(loaded.destination.plain, "team/app", "v1") == (ROOT.content, ROOT.media_type)
    # The next copy compares again, and finds the tag right.
    await loaded.copy()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Answer(202), "POST", times=None), "without a Location"),
        (Fault(Redirect(status=307), "POST", times=None), "307"),
        (Fault(Redirect(status=301), "PUT", UPLOAD, times=None), "301"),
        (Fault(Redirect(status=308), "PUT", "/manifests/v1$", times=None), "308"),
        (Fault(Answer(202), "PUT", UPLOAD, times=None), "202"),
    ],
    ids=str,
)
async def test_an_answer_outside_of_the_protocol_is_a_permanent_error(loaded: Pair, fault: Fault, words: str) -> None:
    fault = loaded.destination.faults.add(Fault(fault.action, fault.method, fault.path, times=None))
    with pytest.raises(ProtocolViolated, match=words) as caught:
        await loaded.copy()
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert 1 <= fault.hits <= len(blobs_of(ROOT))
    assert not await loaded.destination.has_tag("v1")


async def test_no_byte_goes_to_another_host(loaded: Pair) -> None:
    """Without an endpoint of its own: a Location that leads elsewhere is refused."""
    loaded.destination.faults.add(Fault(Headers({"Location": "http://h.example.com/up?a=b"}), "POST", times=None))
    async with Registries(lambda _: Access(insecure=True), timing=PATIENT) as registries:
        with pytest.raises(ProtocolViolated, match=r"another host, h\.example\.com"):
            await Copier(registries).copy(loaded.source.reference("v1"), loaded.destination.reference("v1"))
    assert loaded.destination.faults.log.count("PUT") == 0


@pytest.mark.parametrize(
    ("action", "kind"),
    [(CutUpload(1000, "reset"), ConnectionFailed), (Answer(404), UploadLost)],
    ids=str,
)
async def test_uploads_that_are_always_lost_end(loaded: Pair, action: Action, kind: type[RegistryError]) -> None:
    fault = loaded.destination.faults.add(Fault(action, "PUT", query=SENT, times=None))
    with pytest.raises(kind) as caught:
        await loaded.copy()
    assert (caught.value.error_class, caught.value.registry) == (ErrorClass.TRANSIENT, loaded.destination.host)
    assert 2 <= fault.hits <= 4
    assert not await loaded.destination.has_tag("v1")


async def test_a_blob_that_was_stored_although_the_answer_was_lost_is_not_sent_again(loaded: Pair) -> None:
    fault = loaded.destination.faults.add(Fault(Cut(None, "stall"), "PUT", query=SENT, times=None))
    loaded.hurry(loaded.destination)
    await loaded.copy()
    assert fault.hits == 1
    await loaded.destination.holds("v1", ROOT)


async def test_a_layer_that_a_redirect_to_storage_wrongly_stood_for_is_sent_after_all(pair: Pair) -> None:
    faults = pair.destination.faults
    # It knows no mounts, which the first copy learns.
    faults.add(Fault(Answer(403, "DENIED"), "POST", UPLOAD, query="mount=", times=None))
    await pair.source.push("v0", image(2, (400_000,)))
    await pair.copy("v0")
    # It redirects whether the layer is there or not.
    link = {"Location": f"http://oss-internal.invalid/blobs/sha256/{LAYER.digest[7:]}/data"}
    lie = faults.add(Fault(Answer(307, headers=link), "HEAD", "/blobs/", times=None))
    # Its tag is not watched: a destination that lies is told of it before the layer is there, and refuses.
    await pair.source.push("v1", ROOT)
    await pair.copy("v1")
    await pair.destination.holds("v1", ROOT)
    assert lie.hits >= 2
    assert faults.log.count("PUT", UPLOAD, query=SENT) == 1
