"""The tags that a backfill leaves out."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from replicator.copy import Copier
from replicator.registry import Registries
from replicator.registry.places import Slot
from replicator.replication.backfill import Backfill
from replicator.replication.compare import Checker
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.listing import Listing
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import access_by
from tests.replication.conftest import QUICK

if TYPE_CHECKING:
    import pytest

    from replicator.copy import Comparison
    from replicator.replication.listing import Found
    from replicator.replication.report import Row
    from tests.replication.conftest import House


async def dry_run(house: House, images: dict[str, Any], options: BackfillOptions) -> tuple[Backfill, list[Row]]:
    rules = house.rules(images)
    rows: list[Row] = []
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        listing = Listing(rules, registries)
        backfill = Backfill(listing, Copier(registries), None, options=options, on_row=rows.append)
        await backfill.run()
    return backfill, rows


async def test_lists_and_comparisons_take_the_places_of_bulk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.put(["team/app:v1", "plain/app:v1"])
    seen: list[bool] = []
    enter = Slot.__aenter__

    async def entered(slot: Slot) -> None:
        seen.append(slot.bulk)
        await enter(slot)

    monkeypatch.setattr(Slot, "__aenter__", entered)
    images = {"HARBOR/team/app": "BEHIND/copies/team", "BEHIND/plain/app": "BEHIND/copies/plain"}
    _, rows = await asyncio.create_task(dry_run(house, images, BackfillOptions()))
    assert len(rows) == 2
    assert len(seen) > 4
    assert all(seen)


async def test_few_tags_are_compared_at_once_while_a_push_is_under_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.put([f"plain/app:v{number}" for number in range(20)])
    running, most = 0, 0
    original = Checker.check

    async def check(checker: Checker, found: Found) -> Row | Comparison | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await original(checker, found)
        finally:
            running -= 1

    monkeypatch.setattr(Checker, "check", check)
    rules = house.rules({"BEHIND/plain/app": "BEHIND/copies/plain"})
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        for push, bound in (contextlib.nullcontext(), range(5, 21)), (registries.courtesy.push(), range(1, 5)):
            most = 0
            with push:
                report = await Backfill(
                    Listing(rules, registries), Copier(registries), None, options=BackfillOptions()
                ).run()
            assert report.counts[RowOutcome.WOULD_COPY] == 20
            assert most in bound


async def test_since_leaves_out_older_tags_and_no_tag_without_a_time(house: House) -> None:
    # A plain registry lists names alone: whether a tag is older is not known, so it may be a new one.
    await house.put(["team/app:v1", "plain/app:v1"])
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    images = {"HARBOR/team/app": "BEHIND/copies/team", "BEHIND/plain/app": "BEHIND/copies/plain"}
    backfill, rows = await dry_run(house, images, BackfillOptions(since=tomorrow))
    assert [(row.source, row.outcome) for row in rows] == [(f"{house.behind}/plain/app:v1", RowOutcome.WOULD_COPY)]
    assert (backfill.report.listed, backfill.report.older) == (1, 1)


async def test_a_dry_run_tells_what_would_be_replaced_what_is_missing_and_what_is_left_alone(house: House) -> None:
    digests = await house.put(["team/app:v1", "team/app:v2", "copies/app:v1"])
    there = digests["copies/app:v1"]
    rows, counts = {}, {}
    for overwrite in ("always", "ours", "never"):
        images = {"HARBOR/team/app": {"to": "BEHIND/copies/app", "overwrite": overwrite}}
        backfill, found = await dry_run(house, images, BackfillOptions())
        assert {row.outcome for row in found if row.source.endswith(":v2")} == {RowOutcome.WOULD_COPY}
        (rows[overwrite],) = [row for row in found if row.source.endswith(":v1")]
        counts[overwrite] = backfill.report.replaced
    assert (rows["always"].outcome, rows["always"].replaced) == (RowOutcome.WOULD_COPY, there)
    assert rows["ours"].outcome is RowOutcome.WOULD_COPY
    assert "only if this installation wrote the existing tag" in rows["ours"].note
    assert (rows["never"].outcome, rows["never"].replaced) == (RowOutcome.SKIPPED, None)
    assert rows["never"].note.startswith("not replaced: ")
    assert there in rows["never"].note
    assert counts == {"always": 1, "ours": 1, "never": 0}
