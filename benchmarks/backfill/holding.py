"""Runs a contest of backfills: rounds in changing order, each run verified, requests counted apart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.backfill.content import Content, destination_of, tags_of
from benchmarks.backfill.contest import Contender, Contest, Standing
from benchmarks.measuring import Measurement, RunFailed, measure
from replicator.registry.manifest import ACCEPT

if TYPE_CHECKING:
    from collections import Counter

    from benchmarks.backfill.stage import Destinations, Stage

_AT_ONCE = 16
"""Questions to a destination when it is verified."""


async def hold(stage: Stage, held: Content, contest: Contest, runs: int) -> list[Standing]:
    """Let everyone do the work, and count requests in a run apart, as the counting costs time.

    Args:
        stage: the Harbor.
        held: what it holds.
        contest: what is to be done.
        runs: rounds; each contender runs once a round, in changing order.

    Raises:
        RunFailed: a contender failed, or did not bring everything.
    """
    wanted = {contender.name: _share(held, contender) for contender in contest.contenders}
    standings = {name: Standing(name, tags_of(share)) for name, share in wanted.items()}
    async with stage.destinations(contest) as destinations:
        for turn in range(runs):
            shift = turn % len(contest.contenders)
            for contender in (*contest.contenders[shift:], *contest.contenders[:shift]):
                took, _ = await _run(destinations, contender, wanted[contender.name])
                standings[contender.name].runs.append(took)
        for contender in contest.contenders:
            _, run = await _run(destinations, contender, wanted[contender.name], counted=True)
            standing = standings[contender.name]
            standing.api, standing.registry, standing.destination = run
    return list(standings.values())


def _share(held: Content, contender: Contender) -> Content:
    return dict(list(held.items())[: contender.share])


async def _run(
    destinations: Destinations, contender: Contender, wanted: Content, *, counted: bool = False
) -> tuple[Measurement, tuple[Counter[str], Counter[str], Counter[str]]]:
    async with destinations.run(list(wanted), counted=counted) as run:
        if contender.rehearsal is not None:
            await measure(contender.rehearsal(run.route), run.route.scratch)
            run.forget()
        took = await measure(contender.command(run.route), run.route.scratch)
        counts = run.api, run.source, run.destination
        await verify(run.registry, wanted, contender.name)
    return took, counts


async def verify(registry: str, wanted: Content, who: str) -> None:
    """See that each tag of a registry names the image that it names at Harbor.

    A registry takes no manifest before all that it names, so the digest of the tag stands for everything.

    Args:
        registry: ``127.0.0.1:PORT``.
        wanted: what has to be there, by its repository at Harbor.
        who: was to bring it.

    Raises:
        RunFailed: a tag is not there, or names something else.
    """
    slots = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession(headers={"Accept": ACCEPT}) as session:

        async def see(repository: str, tag: str, digest: str) -> None:
            url = f"http://{registry}/v2/{destination_of(repository)}/manifests/{tag}"
            async with slots, session.head(url) as answer:
                if answer.status != 200:
                    raise RunFailed(f"{who} did not bring {repository}:{tag}")
                if answer.headers.get("Docker-Content-Digest") != digest:
                    raise RunFailed(f"{who} made something else of {repository}:{tag}")

        wants = [(name, tag, root.digest) for name, images in wanted.items() for tag, root in images.items()]
        await asyncio.gather(*(see(*want) for want in wants))
