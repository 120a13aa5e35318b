"""Requests that are saved: by the ledger, by announced digests, and by what a registry was seen to support."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import pytest
from aiohttp import web

from replicator.copy import Copier, Result
from replicator.copy.ledger import TRUSTED_SECONDS, Ledger
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from tests.copy.conftest import Pair, Registry, a_copier, a_registry
from tests.standins.acr import AcrStandIn
from tests.standins.faults import Answer, Fault, Headers
from tests.standins.images import blobs_of, image, layer, manifests_of, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.copy import Outcome
    from tests.standins.images import Image, Index

MIB = 2**20


class ToAcr:
    """A plain registry as the source, an ACR as the destination."""

    def __init__(self, source: Registry, acr: AcrStandIn, copier: Copier) -> None:
        self.source = source
        self.acr = acr
        self.copier = copier

    def there(self, tag: str, name: str) -> Reference:
        return Reference(Repository(self.acr.host, name), tag)

    async def copy(self, tag: str, name: str) -> Outcome:
        return await self.copier.copy(self.source.reference(tag), self.there("v1", name))


@pytest.fixture
async def to_acr(acr_upstream: str) -> AsyncIterator[ToAcr]:
    async with (
        a_registry() as source,
        AcrStandIn(acr_upstream, users=dict([ACR_USER]), namespaces={"cache": True}) as acr,
    ):

        def access(repository: Repository) -> Access:
            name, password = ACR_USER if repository.registry == acr.host else (None, None)
            return Access(name, password, endpoint=f"http://{repository.registry}")

        async with Registries(access) as registries:
            yield ToAcr(source, acr, Copier(registries))


async def test_an_event_whose_digest_is_at_the_destination_costs_one_request(pair: Pair) -> None:
    root = multi_arch(1)
    await pair.source.push("v1", root)
    await pair.copy()
    pair.clear()
    outcome = await pair.copy(announced=root.digest)
    assert (outcome.result, outcome.digest) == (Result.UP_TO_DATE, root.digest)
    assert pair.counts() == (0, 1)


async def test_an_event_s_digest_is_not_trusted_where_the_destination_differs(pair: Pair) -> None:
    old, new = image(1), image(2)
    await pair.source.push("v1", new)
    # The source counts as it is at the time of the copy, whatever was announced.
    outcome = await pair.copy(announced=old.digest)
    assert (outcome.result, outcome.digest) == (Result.COPIED, new.digest)
    await pair.destination.holds("v1", new)
    pair.clear()
    assert (await pair.copy(announced=old.digest)).result is Result.UP_TO_DATE
    assert pair.destination.faults.log.count("PUT") == 0


async def test_an_announced_digest_saves_the_head_request(pair: Pair) -> None:
    root = image(1)
    await pair.source.push("v1", root)
    await pair.copy(announced=root.digest)
    assert [entry.method for entry in pair.source.faults.log].count("HEAD") == 0
    assert pair.source.faults.log.count("GET", "/manifests/") == 1


@pytest.mark.parametrize("action", [Answer(405), Answer(501), Headers({"Docker-Content-Digest": None})], ids=str)
async def test_a_registry_without_head_is_read_instead_and_not_asked_again(
    pair: Pair, action: Answer | Headers
) -> None:
    root = image(1)
    await pair.source.push("v1", root)
    await pair.copy()
    for registry in (pair.source, pair.destination):
        registry.faults.add(Fault(action, "HEAD", "/manifests/", times=None))
    async with a_copier() as copier:
        for expected in (2, 0, 0):
            pair.clear()
            outcome = await copier.copy(pair.source.reference("v1"), pair.destination.reference("v1"))
            assert outcome.result is Result.UP_TO_DATE
            heads = pair.source.faults.log.count("HEAD") + pair.destination.faults.log.count("HEAD")
            assert heads == expected
            assert pair.counts() == ((2, 2) if expected else (1, 1))


async def test_a_registry_that_answered_head_before_is_asked_again_after_a_slip(pair: Pair) -> None:
    """Harbor counts a GET as a pull, but not a HEAD; one odd answer of a proxy must not make every check a pull."""
    await pair.source.push("v1", image(1))
    await pair.copy()
    pair.source.faults.add(Fault(Answer(405), "HEAD", "/manifests/"))
    for reads in (1, 0):
        pair.clear()
        assert (await pair.copy()).result is Result.UP_TO_DATE
        assert (pair.source.faults.log.count("HEAD"), pair.source.faults.log.count("GET")) == (1, reads)


async def test_the_first_image_into_an_empty_repository_takes_no_lookups(pair: Pair) -> None:
    root = multi_arch(2, size=100_000)
    await pair.source.push("v1", root)
    await pair.copy()
    assert pair.counts()[1] == 1 + 2 * len(blobs_of(root)) + len(manifests_of(root))


async def test_a_two_platform_image_of_seven_blobs_costs_twenty_requests_with_the_token(to_acr: ToAcr) -> None:
    root = multi_arch(2, size=100_000)
    assert (len(blobs_of(root)), len(manifests_of(root))) == (7, 3)
    await to_acr.source.push("v1", root)
    await to_acr.copy("v1", "cache/app")
    # A challenge, a token, a HEAD; POST and PUT a blob; PUT a manifest.
    assert len(to_acr.acr.faults.log) + len(to_acr.acr.token_faults.log) == 1 + 1 + 1 + 2 * 7 + 3


async def test_a_large_blob_is_not_sent_again_to_a_registry_without_mounts_in_place(pair: Pair) -> None:
    """Every mount is answered as an ordinary upload: 202, whether the blob is there or not."""
    base = [layer(number, 2 * MIB) for number in range(3)]
    old, new = image(1, (100,), base=base), image(2, (100,), base=base)
    await pair.destination.push("v1", old)
    await pair.source.push("v2", new)
    original = pair.destination.faults._handler

    async def ignoring(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and request.query_string:
            request = request.clone(rel_url=request.rel_url.with_query(None))
        return await original(request)

    pair.destination.faults._handler = ignoring
    outcome = await pair.copy("v2")
    assert (outcome.blobs_present, outcome.blobs_copied) == (3, 2)
    assert pair.source.faults.log.count("GET", f"/blobs/{base[0].digest}") == 0
    await pair.destination.holds("v2", new)
    # A HEAD told that they are there, so no session had to be cancelled.
    assert pair.destination.faults.log.count("DELETE") == 0
    # What the registry makes of a mount in place is found out once; from then on it is a HEAD again.
    for number, (probes, heads) in enumerate([(1, 1), (0, 1)]):
        pair.clear()
        await pair.source.push(f"v{3 + number}", image(3 + number, (100,), base=[layer(7 + number, 2 * MIB)]))
        await pair.copy(f"v{3 + number}")
        log = pair.destination.faults.log
        assert log.count("DELETE") == probes
        assert log.count("HEAD", "/blobs/") == heads
    assert log.count("POST", query="from=") == 0


async def test_one_token_serves_all_repositories_that_blobs_are_mounted_from(to_acr: ToAcr) -> None:
    layers = [layer(number, 100_000) for number in range(3)]
    for number, one in enumerate(layers):
        await to_acr.source.push(f"v{number}", image(10 + number, (), base=[one]))
        await to_acr.copy(f"v{number}", f"cache/part{number}")
    await to_acr.source.push("all", image(20, (), base=layers))
    to_acr.acr.faults.log.clear()
    to_acr.acr.token_faults.log.clear()
    outcome = await to_acr.copy("all", "cache/whole")
    assert (outcome.blobs_mounted, outcome.blobs_copied) == (3, 1)
    # One token for the repository itself, one for all it mounts from.
    assert len(to_acr.acr.token_faults.log) == 2


@pytest.mark.parametrize("mounts", [401, 403, "ignored", "supported"])
async def test_what_another_program_put_into_an_acr_is_mounted_or_sent(
    to_acr: ToAcr, acr_upstream: str, mounts: Literal[401, 403, "ignored", "supported"]
) -> None:
    """Whether ACR mounts is not documented: any answer is fine, and a refusal means the mount alone."""
    if mounts == 401 or mounts == 403:
        to_acr.acr.mounts, to_acr.acr.denied_status = "refused", mounts
    else:
        to_acr.acr.mounts = mounts
    base = layer(77, 2 * MIB)
    await push(acr_upstream, "cache/filled", "v1", image(1, (100,), base=[base]))
    to_acr.copier.expect([Repository(to_acr.acr.host, "cache/filled"), Repository(to_acr.acr.host, "cache/missing")])
    ours = image(2, (100,), base=[base])
    await to_acr.source.push("v1", ours)
    outcome = await to_acr.copy("v1", "cache/ours")
    assert outcome.blobs_mounted == (mounts == "supported")
    await verify_tree(acr_upstream, "cache/ours", "v1", ours)


async def test_concurrent_copies_probe_a_registry_once(pair: Pair) -> None:
    roots = {f"v{number}": image(number, (2 * MIB,)) for number in range(4)}
    for tag, root in roots.items():
        await pair.source.push(tag, root)
    await asyncio.gather(*(pair.copy(tag) for tag in roots))
    probes = pair.destination.faults.log.count("POST", query="mount=") - sum(len(blobs_of(r)) for r in roots.values())
    assert 0 <= probes <= 1
    pair.clear()
    await pair.source.push("last", image(9, (2 * MIB,)))
    await pair.copy("last")
    assert pair.destination.faults.log.count("HEAD", "/blobs/") == 0


async def test_a_registry_that_falsely_confirms_mounts_is_found_out_and_sent_the_blobs(pair: Pair) -> None:
    """It answers 201 without having the blob anywhere; only the refused manifest tells."""
    original = pair.destination.faults._handler

    async def lying(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and "mount" in request.query:
            return web.Response(status=201)
        return await original(request)

    pair.destination.faults._handler = lying
    roots: list[tuple[str, Image | Index]] = [("v1", multi_arch(1, size=100_000)), ("v2", image(7, (2 * MIB,)))]
    for tag, root in roots:
        await pair.source.push(tag, root)
        assert (await pair.copy(tag)).result is Result.COPIED
        await pair.destination.holds(tag, root)
    # By the second image it is known.
    pair.clear()
    await pair.source.push("v3", image(8, (2 * MIB,)))
    await pair.copy("v3")
    await pair.copy("v3", name="team/other")
    assert pair.destination.faults.log.count("POST", query="mount=") == 0
    await pair.destination.holds("v3", image(8, (2 * MIB,)), "team/other")


def test_an_expired_entry_is_only_a_mount_source() -> None:
    now = 0.0
    ledger = Ledger(clock=lambda: now)
    ledger.add("h", "one", "d")
    assert ledger.has("h", "one", "d")
    now = TRUSTED_SECONDS - 1
    assert ledger.has("h", "one", "d")
    now = TRUSTED_SECONDS
    assert not ledger.has("h", "one", "d")
    assert ledger.mount_source("h", "two", "d") == "one"
    ledger.add("h", "one", "d")
    assert ledger.has("h", "one", "d")


def test_an_unconfirmed_entry_is_only_a_mount_source() -> None:
    ledger = Ledger()
    ledger.add("h", "one", "d", confirmed=False)
    assert not ledger.has("h", "one", "d")
    assert ledger.mount_source("h", "two", "d") == "one"
    ledger.add("h", "one", "d")
    ledger.add("h", "one", "d", confirmed=False)
    assert ledger.has("h", "one", "d")


def test_a_preferred_repository_is_the_mount_source() -> None:
    ledger = Ledger()
    for place in ("one", "two", "three"):
        ledger.add("h", place, "d")
    assert ledger.mount_source("h", "x", "d") == "three"
    assert ledger.mount_source("h", "x", "d", ["one"]) == "one"
    assert ledger.mount_source("h", "x", "d", ["elsewhere"]) == "three"
