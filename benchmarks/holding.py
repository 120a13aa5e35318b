"""Runs a contest: rounds in changing order, each run verified, requests counted apart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.contest import DESTINATION_REPOSITORY, Contender, Contest, Standing
from benchmarks.measuring import RunFailed, measure
from benchmarks.stage import stage
from replicator.registry.manifest import ACCEPT
from tests.standins.images import Image, Index, blobs_of, manifests_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.stage import Stage

_AT_ONCE = 8
"""Questions to a destination when it is verified."""


async def hold(contest: Contest, runs: int, storage: Path | None, counted: Contest | None = None) -> list[Standing]:
    """Let everyone do the work, and count requests in a run apart, as the counting costs time.

    Args:
        contest: what is timed.
        runs: rounds; each contender runs once a round, in changing order.
        storage: where the registries keep their content; None for the system's temporary directory.
        counted: the same with small images, whose number of requests is the same; None to count those of ``contest``.

    Raises:
        RunFailed: a contender failed, or did not bring everything.
    """
    standings = {contender.name: Standing(contender.name) for contender in contest.contenders}
    async with stage(contest, storage) as registries:
        for turn in range(runs):
            shift = turn % len(contest.contenders)
            for contender in (*contest.contenders[shift:], *contest.contenders[:shift]):
                async with registries.run() as run:
                    took = await measure(contender.command(run.route), run.route.scratch)
                    await verify(run.registry, contest, contender)
                standings[contender.name].runs.append(took)
        if counted is None:
            await _count(registries, contest, standings)
    if counted is not None:
        async with stage(counted, storage) as registries:
            await _count(registries, counted, standings)
    for standing in standings.values():
        for yardstick in contest.yardsticks:
            standing.compare(standings[yardstick])
    return list(standings.values())


async def _count(registries: Stage, contest: Contest, standings: dict[str, Standing]) -> None:
    for contender in contest.contenders:
        async with registries.run(counted=True) as run:
            await measure(contender.command(run.route), run.route.scratch)
            standings[contender.name].requests = run.requests
            await verify(run.registry, contest, contender)


async def verify(registry: str, contest: Contest, contender: Contender) -> None:
    """See that a registry holds all of a contest's images: manifests byte for byte, and every blob under its name.

    A registry hashes the blobs that it takes, so they are not read again.

    Args:
        registry: ``127.0.0.1:PORT``.
        contest: what has to be there.
        contender: who was to bring it.

    Raises:
        RunFailed: something is not there, or is something else.
    """
    manifests: dict[str, tuple[str, Image | Index]] = {}
    blobs: dict[str, str] = {}
    for tag, root in contest.images.items():
        manifests.update({one.digest: (tag, one) for one in manifests_of(root)})
        blobs.update({blob.digest: tag for blob in blobs_of(root)})
    base = f"http://{registry}/v2/{DESTINATION_REPOSITORY}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_AT_ONCE)) as session:

        async def manifest(reference: str, tag: str, expected: Image | Index) -> None:
            async with session.get(f"{base}/manifests/{reference}", headers={"Accept": ACCEPT}) as answer:
                if answer.status != 200:
                    raise RunFailed(f"{contender.name} did not bring {_named(reference, tag)}")
                if (answer.content_type, await answer.read()) != (expected.media_type, expected.content):
                    raise RunFailed(f"{contender.name} made another manifest of {_named(reference, tag)}")

        async def blob(digest: str, tag: str) -> None:
            async with session.head(f"{base}/blobs/{digest}") as answer:
                if answer.status != 200:
                    raise RunFailed(f"{contender.name} did not bring {_named(digest, tag)}")

        # What is told is the tag, if that is what is wrong.
        await asyncio.gather(*(manifest(tag, tag, root) for tag, root in contest.images.items()))
        await asyncio.gather(
            *(manifest(reference, *expected) for reference, expected in manifests.items()),
            *(blob(digest, tag) for digest, tag in blobs.items()),
        )


def _named(reference: str, tag: str) -> str:
    return tag if reference == tag else f"{reference} of {tag}"
