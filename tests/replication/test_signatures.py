"""Signatures that Harbor's list shows: a sweep brings those that come later, and a comparison costs next to nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Lane
from replicator.queue.leaders import SweepState, SweptProject
from replicator.queue.records import encode, milliseconds
from replicator.reference import Reference, Repository
from replicator.replication.enqueue import job_for
from replicator.replication.job import Handler
from tests.replication.conftest import TEAM
from tests.standins.cosign import cosign_signature
from tests.standins.images import cosign_tag, fetch_raw, image, push, referrer
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.queue import JsonValue, Running
    from replicator.replication.sweep import Sweeper
    from tests.replication.conftest import Stage
    from tests.standins.images import Image

ROOT = image(1)
SIGNATURE = cosign_signature(ROOT)
BUNDLE = referrer(ROOT, 1, "application/vnd.dev.sigstore.bundle.v0.3+json")
SBOM = referrer(ROOT, 2)


async def pushed(stage: Stage, name: str, one: Image = ROOT) -> None:
    await push(stage.house.harbor.host, "team/app", name, one, HARBOR_ROBOT)


async def brought(stage: Stage, sweeper: Sweeper) -> int:
    """Sweep, make the copies, and return their number."""
    await sweeper.step()
    queued = await stage.queued() + await stage.queued(Lane.BACKFILL)
    stage.forget()
    stage.house.harbor.pulls.clear()
    await stage.copy()
    return queued


async def held(stage: Stage, name: str) -> bytes:
    return (await fetch_raw(stage.house.behind, "copies/app", name))[0]


async def at_rest(stage: Stage) -> Sweeper:
    """Return a sweeper that has brought the image under its tag."""
    sweeper = await stage.sweeper()
    await stage.house.put(["team/app:other"])
    await sweeper.step()
    await pushed(stage, "v1")
    await brought(stage, sweeper)
    assert await held(stage, "v1") == ROOT.content
    await brought(stage, sweeper)
    return sweeper


async def test_a_sweep_brings_signatures_that_are_pushed_after_their_image(stage: Stage) -> None:
    sweeper = await at_rest(stage)
    replaced = (await SweepState.read(stage.queue)).replaced
    await pushed(stage, cosign_tag(ROOT), SIGNATURE)
    assert await brought(stage, sweeper) == 1
    assert await held(stage, cosign_tag(ROOT)) == SIGNATURE.content
    # By digest, as new versions of cosign push them, and beside an SBOM.
    for one in (BUNDLE, SBOM):
        await pushed(stage, one.digest, one)
    assert await brought(stage, sweeper) == 1
    assert await held(stage, BUNDLE.digest) == BUNDLE.content
    assert BUNDLE.digest.encode() in await held(stage, cosign_tag(ROOT, ""))
    assert SBOM.digest.encode() not in await held(stage, cosign_tag(ROOT, ""))
    # What it pulled for that has changed the repository again: nothing is left to do, and no destination is asked.
    assert await brought(stage, sweeper) == 0
    # No event of theirs was lost.
    assert (await SweepState.read(stage.queue)).replaced == replaced


async def test_only_the_new_manifest_is_pulled_and_never_the_image(stage: Stage) -> None:
    sweeper = await at_rest(stage)
    await pushed(stage, cosign_tag(ROOT), SIGNATURE)
    assert await brought(stage, sweeper) == 1
    assert stage.house.harbor.pulls == [f"team/app:{SIGNATURE.digest}"]


async def test_a_signature_that_was_there_before_a_new_tag_comes_with_the_sweep_after_it(stage: Stage) -> None:
    """A tag that no rule names is signed, and becomes one that a rule names."""
    images = {"HARBOR/team/**": {"to": "BEHIND/copies/{name}", "tags": {"include": "v*"}}}
    sweeper = await stage.sweeper(images)
    await pushed(stage, "candidate")
    await pushed(stage, BUNDLE.digest, BUNDLE)
    await sweeper.step()
    await stage.house.harbor.retag("team/app", "candidate", "v1")
    await sweeper.step()
    assert await stage.queued() == 1
    await stage.copy(images)
    assert await held(stage, "v1") == ROOT.content
    assert await held(stage, BUNDLE.digest) == BUNDLE.content


async def test_two_tags_of_one_image_make_one_job_of_its_signatures(stage: Stage) -> None:
    sweeper = await at_rest(stage)
    await stage.house.harbor.retag("team/app", "v1", "latest")
    await brought(stage, sweeper)
    await pushed(stage, cosign_tag(ROOT), SIGNATURE)
    assert await brought(stage, sweeper) == 1


@pytest.mark.parametrize("runs", [False, True])
async def test_an_image_that_is_signed_before_its_copy_has_ended_comes_with_its_signature(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, runs: bool
) -> None:
    """A pipeline signs seconds after the push; the copy of a large image, or one behind others, takes minutes."""
    sweeper = await stage.sweeper()
    await stage.house.put(["team/app:other"])
    await sweeper.step()
    await pushed(stage, "v1")
    source = Reference(Repository(stage.house.harbor.host, "team/app"), "v1")
    (request,) = stage.house.rules(TEAM).destinations(source)
    await stage.queue.enqueue([job_for(replace(request, announced=ROOT.digest))], Lane.EVENTS)
    begun, signed = asyncio.Event(), asyncio.Event()
    handle = Handler.__call__

    async def slow(self: Handler, running: Running) -> Mapping[str, JsonValue]:
        begun.set()
        await signed.wait()
        return await handle(self, running)

    monkeypatch.setattr(Handler, "__call__", slow)
    copying = asyncio.create_task(stage.copy()) if runs else None
    if copying is not None:
        await begun.wait()
    await pushed(stage, cosign_tag(ROOT), SIGNATURE)
    await sweeper.step()
    # Another process knows nothing of what this one has queued, and leaves it alone.
    number = await stage.queue.redis.get(f"{stage.queue.prefix}:seq")
    await stage.queue.redis.delete(f"{stage.queue.prefix}:sweep:lease")
    await stage.store(encode(SweptProject(seen=milliseconds(datetime.now(UTC)) - 60_000)))
    await (await stage.sweeper()).step()
    assert await stage.queue.redis.get(f"{stage.queue.prefix}:seq") == number
    signed.set()
    await (copying or stage.copy())
    assert await held(stage, "v1") == ROOT.content
    assert await held(stage, cosign_tag(ROOT)) == SIGNATURE.content
