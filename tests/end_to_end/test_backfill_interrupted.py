"""A backfill that is interrupted (Ctrl-C) and started again resumes, and does nothing twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.writes import digests_unanswered, tag_writes, times_sent, times_written
from tests.running import begun, replicator
from tests.standins.faults import CutUpload, Fault, Hold
from tests.standins.images import blobs_of, image, layer, push, verify_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

BASE = layer(77, 100_000)
IMAGES = {
    f"{repository}:v{number}": image(10 * place + number, (9000,), base=[BASE])
    for place, repository in enumerate(("a", "b"))
    for number in range(6)
}


@dataclass(frozen=True)
class Point:
    """Where it is interrupted.

    Attributes:
        at_source: whether the fault strikes there.
        action: what holds it up.
        method: of the requests that are held up.
        path: of them, a regular expression.
        after: how many of them come through.
        signals: with the second one it ends at once instead of letting the copies that run come to their end.
    """

    at_source: bool
    action: Hold | CutUpload
    method: str
    path: str
    after: int
    signals: int


def points() -> dict[str, Point]:
    return {
        "listing": Point(True, Hold(), "GET", "/tags/list|/repositories|/artifacts", 1, 1),
        "a tag": Point(False, Hold(), "PUT", "/manifests/v", 3, 1),
        "a blob, at once": Point(False, CutUpload(4000, "stall"), "PUT", "/blobs/uploads/", 12, 2),
    }


async def has_said(log: Path, words: str) -> None:
    async with asyncio.timeout(30):
        while not log.exists() or words not in log.read_text():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", points())
async def test_interrupted_and_started_again_it_goes_on_and_repeats_nothing(house: House, name: str) -> None:
    point = points()[name]
    for key, root in IMAGES.items():
        repository, _, tag = key.partition(":")
        await push(house.behind_harbor, f"library/{repository}", tag, root)
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    # What a run that was ended has not handed back would be waited for longer than the test may take.
    settings = {"REPLICATOR_LEASE": "600", "REPLICATOR_DRAIN_TIMEOUT": "600"}
    command = ("backfill", "--config", rules, "--proc=3", "--report=r.json", "--log=log")
    layer_ = (house.harbor if point.at_source else house.acr).faults
    fault = layer_.add(Fault(point.action, point.method, point.path, times=None, after=point.after))
    async with begun(*command, cwd=house.directory, settings=settings) as process, asyncio.timeout(60):
        while not fault.hits:
            await asyncio.sleep(0.01)
        for _ in range(point.signals):
            process.send_signal(signal.SIGINT)
            await has_said(house.directory / "log", '"worker stopping"')
        if isinstance(point.action, Hold):
            point.action.released.set()
        out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"Interrupted" in out
    assert b"Traceback" not in out + err
    layer_.faults.remove(fault)
    written = times_written(house.acr.faults.log)
    assert len(written) < len(IMAGES)
    rows = json.loads((house.directory / "r.json").read_text())
    told = Counter(row["outcome"] for row in rows)
    # Ended at once, a run may not hear any more of a tag whose write was answered a moment ago.
    assert told["copied"] == len(written) if point.signals == 1 else told["copied"] <= len(written)
    assert set(told) <= {"copied", "queued", "not begun"}

    ended = await replicator(*command, cwd=house.directory, settings=settings)
    assert ended.code == 0, ended.said
    rows = json.loads((house.directory / "r.json").read_text())
    found = {row["destination"].partition("/")[2]: row["outcome"] for row in rows}
    assert set(found) == {f"image-syncer/{key}" for key in IMAGES}
    kept = {key for key, outcome in found.items() if outcome == "up to date"}
    assert kept >= set(written)
    # Of a tag that was being written when all ended at once, nobody waited for the answer.
    counts = times_written(house.acr.faults.log)
    unheard = kept - set(counts)
    assert unheard <= {write.name for write in tag_writes(house.acr.faults.log) if not write.answered}
    assert counts + Counter(unheard) == {f"image-syncer/{key}": 1 for key in IMAGES}
    # The base is sent to one of the repositories and mounted into the other.
    sent = times_sent(house.acr.faults.log)
    assert set(sent.values()) == {1}
    assert len({digest for _, digest in sent}) == len(sent)
    missing = {blob.digest for root in IMAGES.values() for blob in blobs_of(root)} - {digest for _, digest in sent}
    # Of a blob, too, that arrived whole when all ended at once.
    assert missing <= (digests_unanswered(house.acr.faults.log) if point.signals > 1 else set())
    for key, root in IMAGES.items():
        repository, _, tag = key.partition(":")
        await verify_tree(house.behind_acr, f"image-syncer/{repository}", tag, root)
