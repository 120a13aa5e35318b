"""Requests and bodies keep to the rates of their host, at a real registry."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from replicator.copy import Copier
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries, RequestObserver, Timing
from replicator.registry.places import BULK
from replicator.registry.rate import Rates
from replicator.timetable import parse_bandwidth, parse_request_rates
from tests.registry.conftest import repository
from tests.registry.test_repository import parsed
from tests.standins.images import image, push, verify_tree

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aiohttp import web

    from tests.registry.conftest import Server

QUICK = Timing(connect=30, read=30, write=0.4, commit=60, tag=20, attempts=3)
"""A body that is held back for longer than ``write`` has not stopped moving."""


def limited(rates: Rates, observer: RequestObserver | None = None) -> AbstractAsyncContextManager[Registries]:
    return Registries(
        lambda place: Access(endpoint=f"http://{place.registry}"), timing=QUICK, rates=rates, observer=observer
    )


async def test_the_bytes_of_all_bodies_keep_to_the_rate_of_the_destination(registry: Server) -> None:
    roots = {f"v{number}": image(number, (150_000, 150_000)) for number in range(2)}
    for tag, root in roots.items():
        await push(registry.host, "team/app", tag, root)
    sent: list[tuple[float, int]] = []
    observer = RequestObserver(sent=lambda _, size: sent.append((time.monotonic(), size)))
    async with limited(Rates(parse_bandwidth("8Mbit/s")), observer) as registries:
        copier, began = Copier(registries), time.monotonic()
        here = {tag: Reference(Repository(registry.host, "team/app"), tag) for tag in roots}
        there = {tag: Reference(Repository(registry.host, f"other/{tag}"), tag) for tag in roots}
        # A mount would send nothing.
        for one in there.values():
            registries.destination(one.repository).abilities.mounts = False
        await asyncio.gather(*(copier.copy(here[tag], there[tag]) for tag in roots))
    for tag, root in roots.items():
        await verify_tree(registry.host, f"other/{tag}", tag, root)
    total = 0
    for moment, size in sent:
        total += size
        assert total <= 1e6 * (moment - began + 0.25) + 64 * 1024
    assert total > 600_000
    assert max(size for _, size in sent) <= 50_000, "a chunk goes in pieces"


async def test_requests_keep_to_the_rate_and_those_of_pushes_go_first(registry: Server) -> None:
    done: list[tuple[str, float]] = []
    async with limited(Rates(requests=parse_request_rates("40"))) as registries:
        remote, began = registries.destination(Repository(registry.host, "team/app")), time.monotonic()

        pushes: list[asyncio.Task[None]] = []

        async def ask(name: str, *, bulk: bool) -> None:
            BULK.set(bulk)
            await remote.head_manifest("v1")
            done.append((name, time.monotonic()))
            if len(done) == 5:
                # Here, not in a task that would look: on a busy machine that one comes late.
                pushes.extend(asyncio.create_task(ask("push", bulk=False)) for _ in range(5))

        await asyncio.gather(*(asyncio.create_task(ask("bulk", bulk=True)) for _ in range(25)))
        await asyncio.gather(*pushes)
    for number, (_, moment) in enumerate(done, 1):
        assert number <= 40 * (moment - began + 0.25) + 1
    order = [name for name, _ in done]
    assert order.index("bulk", 5 + 5) > 0
    assert "push" not in order[-10:], "they overtook what waited"


async def test_a_request_that_is_refused_for_its_login_counts_twice() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web as server

        if "Authorization" not in request.headers:
            return server.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return server.Response(headers={"Docker-Content-Digest": "sha256:" + "0" * 64, "Content-Length": "1"})

    async with repository(answer) as (remote, _):
        host = remote.repository.registry
        access = Access("user", "pass-word", endpoint=f"http://{host}")
        rates = Rates(requests=parse_request_rates("0.1"))
        async with Registries(lambda _: access, rates=rates) as registries:
            rates.requests(host).spent(-1)
            await registries.destination(Repository(host, "a/b")).has_blob("sha256:" + "0" * 64)
            # What was spent without waiting is made up for by what comes next.
            assert rates.requests(host).ask(1, bulk=False) > 0


async def test_a_tag_is_written_at_once_however_far_its_host_is_behind(registry: Server) -> None:
    root = image(1, ())
    rates = Rates(parse_bandwidth("64kbit/s"), parse_request_rates("0.1"))
    async with Registries(lambda _: Access(endpoint=f"http://{registry.host}")) as registries:
        remote = registries.destination(Repository(registry.host, "team/app"))
        await push(registry.host, "team/app", "v1", root)
        remote.limits.upload, remote.limits.requests = rates.upload("h"), rates.requests("h")
        rates.upload("h").spent(1_000_000)
        rates.requests("h").spent(1_000)
        # It would otherwise outlast its lease, which was confirmed a moment ago.
        await remote.put_manifest(parsed(root), "v2", within=30)
    await verify_tree(registry.host, "team/app", "v2", root)


async def test_the_limit_can_be_lifted_while_a_body_is_under_way(registry: Server) -> None:
    await push(registry.host, "team/app", "v1", root := image(3, (500_000,)))
    rates = Rates(parse_bandwidth("64kbit/s"))
    sent = asyncio.Event()
    async with limited(rates, RequestObserver(sent=lambda *_: sent.set())) as registries:
        registries.destination(Repository(registry.host, "other/app")).abilities.mounts = False
        source = Reference(Repository(registry.host, "team/app"), "v1")
        copying = asyncio.create_task(
            Copier(registries).copy(source, Reference(Repository(registry.host, "other/app"), "v1"))
        )
        await sent.wait()
        rates.renew(parse_bandwidth("unlimited"), parse_request_rates("unlimited"))
        async with asyncio.timeout(30):
            await copying
    await verify_tree(registry.host, "other/app", "v1", root)
