"""The digest that an event announced: trusted while it is fresh, and missed where Harbor does not show it yet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import Lane
from replicator.replication.transfer import CopyFailed
from tests.replication.test_job import Job, handling, request, rules_of, run
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn


@pytest.mark.parametrize(
    ("tries", "merged", "minutes", "believed"),
    [(1, False, 9, True), (2, False, 0, False), (1, True, 0, False), (2, True, 0, False), (1, False, 11, False)],
)
async def test_an_announced_digest_is_trusted_on_an_early_first_attempt_if_no_other_push_was_merged(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str, tries: int, merged: bool, minutes: int, believed: bool
) -> None:
    """The event is stale, and the destination has the digest that it announced."""
    old, new = image(1), image(2)
    await push(harbor.host, "team/app", "v1", new, HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", old)
    rules = rules_of(harbor, acr)
    payload = replace(request(rules, harbor, "v1"), announced=old.digest).to_json()
    harbor.faults.log.clear()
    async with handling(rules) as handler:
        enqueued = datetime.now(UTC) - timedelta(minutes=minutes)
        outcome = await run(handler, Job(payload, tries=tries, merged=merged, enqueued_at=enqueued))
    expected = ("up to date", old.digest) if believed else ("copied", new.digest)
    assert (outcome["result"], outcome["digest"]) == expected
    assert (len(harbor.faults.log) == 0) is believed


async def test_an_event_that_is_quicker_than_its_harbor_is_looked_at_again(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    """A database replica that lags still shows the image before the push, which is in place."""
    old, new = image(1), image(2)
    await push(harbor.host, "team/app", "v1", old, HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", old)
    harbor.lag_seconds = 3600.0
    await push(harbor.host, "team/app", "v1", new, HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    payload = replace(request(rules, harbor, "v1"), announced=new.digest).to_json()
    async with handling(rules) as handler:
        for tries in (1, 2):
            with pytest.raises(CopyFailed, match="may lag") as caught:
                await run(handler, Job(payload, tries=tries, pushed=datetime.now(UTC)))
            assert caught.value.error_class is ErrorClass.NOT_YET
            assert new.digest[:19] in str(caught.value)
        # The tag may have been moved back: that is believed in the end.
        assert (await run(handler, Job(payload, tries=3)))["result"] == "up to date"
        with pytest.raises(CopyFailed, match="may lag"):
            await run(handler, Job(payload))
        harbor.catch_up()
        outcome = await run(handler, Job(payload, tries=2))
    assert (outcome["result"], outcome["digest"]) == ("copied", new.digest)
    await verify_tree(acr_upstream, "cache/app", "v1", new)


async def test_a_backfill_and_a_merged_push_announce_nothing_to_wait_for(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", image(1))
    rules = rules_of(harbor, acr)
    payload = replace(request(rules, harbor, "v1"), announced=image(2).digest).to_json()
    async with handling(rules) as handler:
        for work in (Job(payload, lane=Lane.BACKFILL), Job(payload, merged=True)):
            assert (await run(handler, work))["result"] == "up to date"


@pytest.mark.parametrize(
    ("changes", "minutes", "heads"),
    [({}, 9, 0), ({"tries": 2}, 0, 1), ({"merged": True}, 0, 1), ({"lapsed": True}, 0, 1), ({}, 11, 1)],
)
async def test_a_tag_that_was_just_seen_to_be_absent_is_not_asked_for_again(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str, changes: dict[str, Any], minutes: int, heads: int
) -> None:
    """A worker that died may have written it."""
    await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    rules = rules_of(harbor, acr)
    payload = replace(request(rules, harbor, "v1"), announced=image(1).digest, absent=True).to_json()
    async with handling(rules) as handler:
        enqueued = datetime.now(UTC) - timedelta(minutes=minutes)
        work = Job(payload, enqueued_at=enqueued, lane=Lane.BACKFILL, **changes)
        assert (await run(handler, work))["result"] == "copied"
    # 401 where the repository is missing too.
    assert acr.faults.log.count("HEAD", "/manifests/") == heads
    await verify_tree(acr_upstream, "cache/app", "v1", image(1))


async def test_a_tag_that_came_since_it_was_seen_to_be_absent_gets_what_the_source_has_now(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    await push(harbor.host, "team/app", "v1", image(2), HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", image(3))
    rules = rules_of(harbor, acr)
    payload = replace(request(rules, harbor, "v1"), announced=image(1).digest, absent=True).to_json()
    async with handling(rules) as handler:
        assert (await run(handler, Job(payload, lane=Lane.BACKFILL)))["digest"] == image(2).digest
    await verify_tree(acr_upstream, "cache/app", "v1", image(2))
