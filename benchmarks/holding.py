"""Runs a contest: rounds in changing order, each run verified, requests counted apart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.contest import Contender, Contest, Standing
from benchmarks.measuring import RunFailed
from benchmarks.stage import Run, stage
from replicator.registry.manifest import ACCEPT
from tests.standins.images import Image, Index, blobs_of, manifests_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.stage import Stage

_AT_ONCE = 16
"""Questions to a destination when it is verified."""
_PARTS = 1000
"""Tags up to which every part of an image is asked for; a registry takes no manifest before all that it names, so the
digest of a tag stands for everything."""


async def hold(contest: Contest, runs: int, storage: Path | None, counted: Contest | None = None) -> list[Standing]:
    """Let everyone do the work, and count requests in a run apart, as the counting costs time.

    Who fails, or does not bring everything, takes no further part; its standing says why.

    Args:
        contest: what is timed.
        runs: rounds; each contender runs once a round, in changing order.
        storage: where the registries keep their content; None for the system's temporary directory.
        counted: the same with small images, whose number of requests is the same; None to count those of ``contest``.
    """
    standings = {one.name: Standing(one.name, floor=one.floor) for one in contest.contenders}
    async with stage(contest, storage) as registries:
        for turn in range(runs):
            shift = turn % len(contest.contenders)
            for contender in (*contest.contenders[shift:], *contest.contenders[:shift]):
                await _run(registries, contest, contender, standings[contender.name])
        if counted is None and not (runs and contest.synthetic):
            await _count(registries, contest, standings)
    if counted is not None:
        async with stage(counted, storage) as registries:
            await _count(registries, counted, standings)
    return list(standings.values())


async def _count(registries: Stage, contest: Contest, standings: dict[str, Standing]) -> None:
    for contender in contest.contenders:
        if contender.name in standings:
            await _run(registries, contest, contender, standings[contender.name], counted=True)


async def _run(
    registries: Stage, contest: Contest, contender: Contender, standing: Standing, *, counted: bool = False
) -> None:
    if standing.problem:
        return
    try:
        async with registries.run(share=contender.share, counted=counted) as run:
            took = await contender.run(run.route)
            if counted or contest.synthetic:
                # A synthetic registry counts at no cost.
                standing.requests = await run.requests()
            if not counted:
                standing.runs.append(took)
            standing.tags = len(run.route.references) if contender.share is not None else 0
            if contest.brings and contest.synthetic is None:
                await verify(run, contest, contender.name)
    except RunFailed as error:
        standing.problem = str(error)


async def verify(run: Run, contest: Contest, who: str) -> None:
    """See that a registry holds all that a run was given: manifests byte for byte, and every blob under its name.

    A registry hashes the blobs that it takes, so they are not read again.

    Args:
        run: it is asked for its tags.
        contest: what they have to be.
        who: was to bring them.

    Raises:
        RunFailed: something is not there, or is something else.
    """
    slots = asyncio.Semaphore(_AT_ONCE)
    route = run.route
    wanted = {name: {tag: contest.content[name][tag] for tag in tags} for name, tags in route.tags.items()}
    async with aiohttp.ClientSession(headers={"Accept": ACCEPT}) as session:

        async def see(name: str, kind: str, reference: str, tag: str, expected: Image | Index | None = None) -> None:
            url = f"{route.registry}/v2/{route.targets[name]}/{kind}/{reference}"
            method = "GET" if expected else "HEAD"
            async with slots, session.request(method, url, ssl=run.trust or True) as answer:
                about = f"{name}:{tag}" if reference == tag else f"{reference} of {name}:{tag}"
                if answer.status != 200:
                    raise RunFailed(f"{who} did not bring {about}")
                if expected and (answer.content_type, await answer.read()) != (expected.media_type, expected.content):
                    raise RunFailed(f"{who} made another manifest of {about}")

        # What is told is the tag, if that is what is wrong.
        roots = [(name, tag, root) for name, tags in wanted.items() for tag, root in tags.items()]
        await asyncio.gather(*(see(name, "manifests", tag, tag, root) for name, tag, root in roots))
        if len(roots) > _PARTS:
            return
        manifests = {(name, one.digest): (tag, one) for name, tag, root in roots for one in manifests_of(root)}
        blobs = {(name, blob.digest): tag for name, tag, root in roots for blob in blobs_of(root)}
        await asyncio.gather(
            *(see(name, "manifests", digest, tag, one) for (name, digest), (tag, one) in manifests.items()),
            *(see(name, "blobs", digest, tag) for (name, digest), tag in blobs.items()),
        )
