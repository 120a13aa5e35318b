"""A destination that was emptied: noticed by a fast backfill, counted apart, and told."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from replicator.copy import Copier
from replicator.queue import Lane, Observations
from replicator.queue.traffic import LostImages
from replicator.reference import Reference
from replicator.registry import Registries
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions, job_for
from replicator.replication.job import LOST
from replicator.replication.listing import Listing
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import access_by
from tests.replication.conftest import QUICK, TEAM, tiny
from tests.standins.images import push

if TYPE_CHECKING:
    from replicator.replication.report import Report, Row
    from tests.replication.conftest import Stage

NAMES = [f"team/{repository}:v{number}" for repository in ("app", "web") for number in range(6)]
PLAIN = {"BEHIND/team/app": "BEHIND/copies/{name}"}


async def backfill(
    stage: Stage, *, trust: float | None = 3600.0, images: dict[str, Any] | None = None
) -> tuple[Report, list[Row]]:
    """Run one that leaves its copies in the queue."""
    rules = stage.house.rules(images or TEAM)
    rows: list[Row] = []
    async with (
        Registries(access_by(rules.credentials), timing=QUICK) as registries,
        aclosing(Observations(stage.queue)) as checks,
    ):
        options = BackfillOptions(detach=True, trust=trust)
        listing = Listing(rules, registries)
        report = await Backfill(
            listing, Copier(registries), stage.queue, options=options, checks=checks, on_row=rows.append
        ).run()
    return report, rows


async def fill(stage: Stage, images: dict[str, Any] | None = None) -> None:
    """Copy everything, so that it is remembered to be in place."""
    await stage.house.put(NAMES)
    await backfill(stage, trust=None, images=images)
    await stage.copy(images)


async def lose(stage: Stage, repository: str) -> None:
    for name in NAMES:
        if name.startswith(f"team/{repository}:"):
            await stage.house.delete(f"copies/{repository}", tiny(name).digest)


async def test_a_fast_backfill_asks_for_one_tag_of_each_repository(stage: Stage) -> None:
    await fill(stage)
    report, rows = await backfill(stage)
    assert (report.counts, report.trusted, report.lost) == ({RowOutcome.UP_TO_DATE: 12}, 10, 0)
    assert sum(not row.note for row in rows) == 2
    assert await LostImages.read(stage.queue) is None


@pytest.mark.parametrize("images", [TEAM, PLAIN], ids=["digests are listed", "names are listed"])
async def test_an_emptied_repository_is_compared_as_a_whole_and_what_was_in_place_is_counted_apart(
    stage: Stage, images: dict[str, Any]
) -> None:
    await fill(stage, images)
    await lose(stage, "app")
    report, rows = await backfill(stage, images=images)
    others = 0 if images is PLAIN else 6
    assert report.counts[RowOutcome.QUEUED] == report.lost == 6
    assert report.counts[RowOutcome.UP_TO_DATE] == others
    assert len(report.lost_examples) == 5
    found = await LostImages.read(stage.queue)
    assert found is not None
    assert (found.images, len(found.examples)) == (6, 5)
    assert all("/copies/app:" in each for each in found.examples)
    await stage.copy(images)
    report, rows = await backfill(stage, images=images)
    assert (report.counts, report.lost) == ({RowOutcome.UP_TO_DATE: 6 + others}, 0)
    # What was brought since is trusted again, but for the one that is asked.
    assert sum(bool(row.note) for row in rows if "/copies/app:" in row.destination) == 5


async def test_a_reconcile_counts_what_was_in_place_and_a_first_fill_counts_nothing(stage: Stage) -> None:
    await stage.house.put(NAMES)
    report, _ = await backfill(stage, trust=None)
    assert (report.drift, report.lost) == (12, 0)
    await stage.copy()
    await lose(stage, "web")
    report, _ = await backfill(stage, trust=None)
    assert (report.drift, report.lost) == (6, 6)


async def test_a_copy_for_an_event_that_finds_a_loss_says_so_and_ends_the_trust_in_the_repository(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(stage)
    await lose(stage, "app")
    source = Reference.parse(f"{stage.house.harbor.host}/team/app:v1")
    (request,) = stage.house.rules(TEAM).destinations(source)
    await stage.queue.enqueue([job_for(request)], Lane.EVENTS)
    with capture_logs() as logs:
        await stage.copy()
    (line,) = [each for each in logs if each["event"] == "copy done"]
    assert (line["log_level"], line["warnings"]) == ("warning", [LOST])
    # A backfill that asks for just the one tag that is back does not trust the others.

    def order(found: list[Any], _: int) -> list[Any]:
        return sorted(found, key=lambda each: bool(each.request.source.tag != "v1"))

    monkeypatch.setattr("random.sample", order)
    report, _ = await backfill(stage)
    assert report.lost == 5


async def test_a_destination_that_names_an_older_image_ends_the_trust_but_is_no_loss(stage: Stage) -> None:
    await fill(stage)
    for name in NAMES:
        repository, _, tag = name.removeprefix("team/").partition(":")
        await push(stage.house.behind, f"copies/{repository}", tag, tiny("older"))
    report, _ = await backfill(stage)
    assert (report.counts, report.lost) == ({RowOutcome.QUEUED: 12}, 0)


@pytest.mark.parametrize("trust", [3600.0, None], ids=["a tag that is asked again", "a comparison"])
async def test_a_tag_that_somebody_else_wrote_and_that_is_left_alone_ends_the_trust(
    stage: Stage, trust: float | None
) -> None:
    await fill(stage)
    for tag in range(6):
        await push(stage.house.behind, "copies/app", f"v{tag}", tiny("foreign"))
    images = {"HARBOR/team/**": {"to": "BEHIND/copies/{name}", "overwrite": "ours"}}
    for run in (trust, 3600.0):
        report, rows = await backfill(stage, trust=run, images=images)
        assert report.counts == {RowOutcome.SKIPPED: 6, RowOutcome.UP_TO_DATE: 6}
        assert all("not replaced" in row.note for row in rows if "/copies/app:" in row.destination)


TYPED = {"HARBOR/team/**": {"to": "BEHIND/copies/{name}", "types": ["image"]}}


@pytest.mark.parametrize("images", [TEAM, TYPED], ids=["every type", "images alone"])
async def test_a_copy_for_an_event_that_replaces_what_somebody_else_wrote_ends_the_trust_in_the_repository(
    stage: Stage, images: dict[str, Any]
) -> None:
    await fill(stage, images)
    await push(stage.house.behind, "copies/app", "v1", tiny("foreign"))
    source = Reference.parse(f"{stage.house.harbor.host}/team/app:v1")
    (request,) = stage.house.rules(images).destinations(source)
    await stage.queue.enqueue([job_for(request)], Lane.EVENTS)
    await stage.copy(images)
    report, _ = await backfill(stage, images=images)
    assert report.trusted == 5, "of the other repository"
