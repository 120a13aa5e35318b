"""Logins during a copy: requested once, renewed when they expire, and never sent to another host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.registry.errors import Denied, LoginRefused, StorageRefused, Unauthorized
from tests.copy.conftest import Registry, a_registry
from tests.copy.guarded import Guarded, a_copier_with_login, a_guarded_registry
from tests.registry.guard import BASIC
from tests.standins.faults import Answer, Cut, CutUpload, Fault, FaultLayer, Redirect
from tests.standins.images import blobs_of, image, layer, multi_arch, put_manifest
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = image(1, (400_000,))
LAYER = blobs_of(ROOT)[1]
SENT = LAYER.digest.replace(":", "%3A")
PUSH = "repository:team/app:pull,push"


@pytest.fixture
async def source() -> AsyncIterator[Registry]:
    async with a_registry() as registry:
        await registry.push("v1", ROOT)
        yield registry


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    async with a_guarded_registry() as registry:
        yield registry


async def copy(source: Registry, guarded: Guarded, tag: str = "v1") -> None:
    async with a_copier_with_login(guarded) as copier:
        await copier.copy(source.reference(tag), guarded.registry.reference(tag))


async def test_fifty_copies_at_once_ask_for_one_token(source: Registry, guarded: Guarded) -> None:
    base = [layer(99, 100_000)]
    root = image(2, base=base)
    await source.push("t0", root)
    for number in range(1, 50):
        await put_manifest(source.plain, "team/app", f"t{number}", root)
    async with a_copier_with_login(guarded) as copier:
        await asyncio.gather(
            *(copier.copy(source.reference(f"t{n}"), guarded.registry.reference(f"t{n}")) for n in range(50))
        )
        assert guarded.guard.issued == [PUSH]
        guarded.guard.revoke()
        await asyncio.gather(
            *(copier.copy(source.reference(f"t{n}"), guarded.registry.reference(f"t{n}")) for n in range(50))
        )
        assert guarded.guard.issued == [PUSH, PUSH]
    for number in (0, 49):
        await guarded.registry.holds(f"t{number}", root)


@pytest.mark.parametrize("harbor", [False, True])
@pytest.mark.parametrize("after", [0, 100_000])
async def test_a_token_that_ends_in_the_middle_of_an_upload_is_renewed(
    source: Registry, guarded: Guarded, harbor: bool, after: int
) -> None:
    """Harbor answers an expired token with a challenge for Basic."""
    guarded.guard.basic_after_bearer = harbor
    ended = 0
    original = guarded.guard.__call__

    async def ending(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal ended
        if request.method == "PUT" and SENT in request.raw_path and not ended:
            ended += 1
            if after:
                await request.content.readexactly(after)
            guarded.guard.revoke()
        return await original(request)

    guarded.registry.faults._handler = ending
    await copy(source, guarded)
    await guarded.registry.holds("v1", ROOT)
    log = guarded.registry.faults.log
    assert [entry.status for entry in log.select("PUT", query=SENT)] == [401, 201]
    assert len({entry.path for entry in log.select("PUT", query=SENT)}) == 2
    assert guarded.guard.issued == [PUSH, PUSH]
    assert all(entry.headers.get("Authorization") != BASIC for entry in log)


async def test_an_upload_that_no_token_allows_ends(source: Registry, guarded: Guarded) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{guarded.guard.realm}"'}
    fault = guarded.registry.faults.add(
        Fault(CutUpload(1000, Answer(401, headers=challenge)), "PUT", query=SENT, times=None)
    )
    with pytest.raises(Unauthorized, match="401") as caught:
        await copy(source, guarded)
    assert caught.value.error_class is ErrorClass.CREDENTIALS
    # If the config was accepted meanwhile, that was reason for a second token.
    assert 2 <= fault.hits <= 3
    assert not await guarded.registry.has_tag("v1")


@pytest.mark.parametrize("place", ["everything", "POST", "PUT"])
async def test_an_error_about_a_login_names_the_missing_scope(source: Registry, guarded: Guarded, place: str) -> None:
    challenge = (
        f'Bearer realm="{guarded.guard.realm}",service="registry",scope="repository:team/app:pull,push",'
        'error="insufficient_scope"'
    )
    method, path = (None, None) if place == "everything" else (place, "/manifests/" if place == "PUT" else "/blobs/")
    guarded.registry.faults.add(
        Fault(Answer(401, "DENIED", headers={"WWW-Authenticate": challenge}), method, path, times=None)
    )
    async with asyncio.timeout(30):
        with pytest.raises(Denied, match=f"does not allow {PUSH}") as caught:
            await copy(source, guarded)
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert caught.value.registry == guarded.registry.host
    # A fresh token for each refused one, and then no more.
    assert len(guarded.guard.issued) <= 8
    assert guarded.registry.faults.log.count(method, path) <= 16
    assert not await guarded.registry.has_tag("v1")


async def test_a_wrong_password_is_sent_once_and_nothing_of_the_image(source: Registry, guarded: Guarded) -> None:
    guarded.tokens.add(Fault(Answer(401, "UNAUTHORIZED", "no such pair"), times=None))
    with pytest.raises(LoginRefused, match="no such pair"):
        await copy(source, guarded)
    assert len(guarded.tokens.log) == 1
    assert guarded.registry.faults.log.count("POST") == guarded.registry.faults.log.count("PUT") == 0


@pytest.mark.parametrize("challenges", ["one header", "several headers", "several challenges"])
async def test_the_token_challenge_is_found_among_others(source: Registry, guarded: Guarded, challenges: str) -> None:
    bearer = f'Bearer realm="{guarded.guard.realm}",service="a, b",scope="repository:x:pull,push"'
    others = 'Negotiate, Basic realm="x, Bearer realm=\\"y\\""'
    original = guarded.registry.faults._handler

    async def offering(request: web.BaseRequest) -> web.StreamResponse:
        response = await original(request)
        if response.status == 401:
            response.headers.popall("WWW-Authenticate")
            values = {
                "one header": [bearer],
                "several headers": [others, bearer],
                "several challenges": [f"{others}, {bearer}"],
            }
            for value in values[challenges]:
                response.headers.add("WWW-Authenticate", value)
        return response

    guarded.registry.faults._handler = offering
    await copy(source, guarded)
    await guarded.registry.holds("v1", ROOT)
    assert "service=a,+b" in guarded.tokens.log.entries[0].query.replace("%2C", ",").replace("%20", "+")


def lead_to(guarded: Guarded, host: str) -> None:
    """Have the registry redirect requests for blobs."""
    original = guarded.guard.handler

    async def leading(request: web.BaseRequest) -> web.StreamResponse:
        if "/blobs/" in request.path:
            return await FaultLayer(original)._answer(request, Redirect(f"http://{host}"))
        return await original(request)

    guarded.guard.handler = leading


async def test_redirected_storage_never_gets_a_login(guarded: Guarded) -> None:
    root = multi_arch(1, size=400_000)
    shared = max(blobs_of(root), key=lambda blob: blob.size)
    await guarded.registry.push("v1", root)
    async with Upstream(guarded.registry.plain) as upstream, a_registry() as destination:
        storage = FaultLayer(upstream.forward)
        storage.add(Fault(Cut(200_000), "GET", shared.digest))
        async with serve(storage) as host, a_copier_with_login(guarded) as copier:
            lead_to(guarded, host)
            await copier.copy(guarded.registry.reference("v1"), destination.reference("v1"))
        await destination.holds("v1", root)
    begins = [entry.begins for entry in storage.log.select("GET", shared.digest)]
    assert begins[0] == 0 < begins[1] <= 200_000
    assert all("Authorization" not in entry.headers for entry in storage.log)
    # The registry itself was asked for the rest, with the token it is for.
    asked = guarded.registry.faults.log.select("GET", shared.digest)
    assert [entry.begins for entry in asked] == begins
    assert all(entry.headers["Authorization"].startswith("Bearer ") for entry in asked)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_link_that_storage_refuses_is_requested_again(guarded: Guarded, status: int) -> None:
    root = multi_arch(1, size=400_000)
    await guarded.registry.push("v1", root)
    async with Upstream(guarded.registry.plain) as upstream, a_registry() as destination:
        storage = FaultLayer(upstream.forward)
        storage.add(Fault(Answer(status, body=b"<Error><Code>AccessDenied</Code></Error>"), "GET", "/blobs/"))
        async with serve(storage) as host, a_copier_with_login(guarded) as copier:
            lead_to(guarded, host)
            await copier.copy(guarded.registry.reference("v1"), destination.reference("v1"))
        await destination.holds("v1", root)


async def test_storage_that_refuses_every_link_is_named_and_not_blamed_on_the_login(guarded: Guarded) -> None:
    await guarded.registry.push("v1", multi_arch(1))
    async with a_registry() as destination:

        async def refusing(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=403)

        async with serve(refusing) as host, a_copier_with_login(guarded) as copier:
            lead_to(guarded, host)
            with pytest.raises(StorageRefused, match="which the registry redirects to") as caught:
                await copier.copy(guarded.registry.reference("v1"), destination.reference("v1"))
    assert caught.value.error_class is ErrorClass.TRANSIENT
