"""The rules in force decide when a copy begins, whichever rules queued it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog

from replicator.copy import Accessories, Copier, Outcome, Result
from replicator.copy.options import Attestations
from replicator.queue import Lane, LeftToOthers
from replicator.queue.configurations import Place
from replicator.reference import Reference
from replicator.replication.enqueue import job_for, rules_of
from replicator.replication.job import WITHDRAWN, Handler, describe
from replicator.rules import CopyRequest, Rules, parse
from tests.replication.test_job import Job

if TYPE_CHECKING:
    from collections.abc import Collection

    from replicator.queue import InForce, Running

HARBOR, ACR = "harbor.example.com", "registry.cn-beijing.aliyuncs.com"
APP, TEAM = f"{HARBOR}/library/app", f"{HARBOR}/team/app"


def rules(images: dict[str, Any]) -> Rules:
    auth = {HARBOR: {"anonymous": True}, ACR: {"anonymous": True}, "other.example.com": {"anonymous": True}}
    return parse(json.dumps({"auth": auth, "images": images}), "rules.json", environ={})


BEFORE = rules({APP: f"{ACR}/mirror/app", TEAM: f"{ACR}/mirror/team"})


@dataclass
class Asked(Job):
    asked: tuple[str, ...] = ()


class Others:
    """What is known of other processes."""

    def __init__(self, place: Place) -> None:
        self.place_found = place
        self.questions: list[tuple[str, Collection[str]]] = []
        self.renewed: list[str] = []

    async def place(self, digest: str, asked: Collection[str]) -> Place:
        self.questions.append((digest, asked))
        return self.place_found

    def keep(self, digest: str, asked: Collection[str]) -> str:
        return " ".join([digest, *asked])

    def renew(self, digest: str, _: Collection[str]) -> None:
        self.renewed.append(digest)


def handler(now: Rules, others: Others | None = None) -> Handler:
    known = cast("InForce", others or Others(Place(None, is_former=True)))
    return Handler(cast("Copier", None), None, now, known)


def requested(reference: str, by: Rules = BEFORE) -> CopyRequest:
    (found,) = by.destinations(Reference.parse(reference))
    return found


async def begin(made: Handler, request: CopyRequest, queued_by: str = BEFORE.digest) -> CopyRequest | Outcome:
    """The request as the handler would carry it out, or its outcome."""
    work = Asked(job_for(request, rules=queued_by).payload, asked=("x",))
    return await made._present(request, cast("Running", work))


async def ended(made: Handler, request: CopyRequest) -> dict[str, Any]:
    work = Asked(job_for(request, rules=BEFORE.digest).payload, lane=Lane.BACKFILL)
    return dict(await made._run(cast("Running", work)))


async def test_a_copy_that_is_named_the_same_way_is_made_with_the_present_options() -> None:
    now = rules({APP: {"to": f"{ACR}/mirror/app", "platforms": ["linux/arm64"], "tags": {"latest": 3}}})
    digest = "sha256:" + "1" * 64
    stored = replace(
        requested(f"{APP}:v1"),
        announced=digest,
        absent=True,
        force=True,
        accessories=Accessories(digest, (digest,)),
    )
    found = await begin(handler(now), stored)
    assert isinstance(found, CopyRequest)
    wanted = requested(f"{APP}:v1", now)
    assert (found.options, found.selection, found.rule) == (wanted.options, wanted.selection, wanted.rule)
    # What was seen of the image stays; what was chosen for other options does not.
    assert (found.announced, found.absent, found.force, found.accessories) == (digest, True, True, None)


async def test_signatures_that_a_list_has_shown_stay_where_attestations_alone_are_wanted_otherwise() -> None:
    now = rules({APP: {"to": f"{ACR}/mirror/app", "attestations": "strip"}})
    shown = Accessories("sha256:" + "1" * 64, ("sha256:" + "2" * 64,))
    found = await begin(handler(now), replace(requested(f"{APP}:v1"), accessories=shown))
    assert isinstance(found, CopyRequest)
    assert found.options.attestations is Attestations.STRIP
    assert found.accessories == shown


async def test_under_the_rules_that_queued_it_nothing_is_asked_and_nothing_changes() -> None:
    others = Others(Place(None))
    stored = replace(requested(f"{APP}:v1"), selection=None, force=True)
    assert await begin(handler(BEFORE, others), stored) == stored
    more = rules({APP: f"{ACR}/mirror/app", TEAM: f"{ACR}/mirror/team", f"{HARBOR}/x/*": f"{ACR}/x/{{flat}}"})
    assert await begin(handler(more, others), stored) == stored
    assert others.questions == []


@pytest.mark.parametrize("queued_by", [BEFORE.digest, ""], ids=["these rules", "an older version"])
async def test_a_copy_that_no_rule_names_any_more_is_skipped_and_said_so(queued_by: str) -> None:
    now = rules({APP: f"{ACR}/mirror/app"})
    found = await begin(handler(now), requested(f"{TEAM}:v1"), queued_by)
    assert isinstance(found, Outcome)
    assert (found.result, found.note, found.warnings) == (Result.SKIPPED, WITHDRAWN, ())
    # The whole job does not ask any registry, and fails nowhere.
    outcome = await ended(handler(now), requested(f"{TEAM}:v1"))
    payload = job_for(requested(f"{TEAM}:v1")).payload
    shown = describe(Lane.BACKFILL, payload, outcome)
    assert shown is not None
    assert (shown.result, shown.note, shown.arrived) == ("skipped", "no rule names it any more", False)


@pytest.mark.parametrize(
    "now",
    [
        {APP: f"{ACR}/other/app"},
        {APP: "other.example.com/mirror/app"},
        {APP: {"to": f"{ACR}/mirror/app", "tags": {"include": ["release-*"]}}},
    ],
    ids=["another name", "another host", "other tags"],
)
async def test_one_that_would_go_elsewhere_or_whose_tag_is_left_out_is_named_no_more(now: dict[str, Any]) -> None:
    assert isinstance(await begin(handler(rules(now)), requested(f"{APP}:v1")), Outcome)


async def test_a_job_of_other_processes_is_left_to_them() -> None:
    now, others = rules({APP: f"{ACR}/mirror/app"}), Others(Place("theirs mine"))
    with pytest.raises(LeftToOthers) as left:
        await ended(handler(now, others), requested(f"{TEAM}:v1"))
    assert left.value.note == "theirs mine"
    assert others.questions == [(BEFORE.digest, ())]


async def test_a_backfill_with_options_of_its_own_makes_its_own_copies() -> None:
    now, others = rules({APP: {"to": f"{ACR}/mirror/app", "platforms": ["linux/arm64"]}}), Others(Place("theirs", True))
    with pytest.raises(LeftToOthers):
        await begin(handler(now, others), requested(f"{APP}:v1"))
    # A process that runs for years is updated soon: the present options are as good as its own.
    others.place_found = Place("theirs")
    assert isinstance(await begin(handler(now, others), requested(f"{APP}:v1")), CopyRequest)


async def test_a_copy_waits_while_a_file_that_may_name_it_is_out_of_force() -> None:
    now = rules({APP: f"{ACR}/mirror/app"})
    now.out = ("team.yaml",)
    with pytest.raises(LeftToOthers) as waits:
        await begin(handler(now), requested(f"{TEAM}:v1"))
    assert waits.value.note == f"{BEFORE.digest} x"


async def test_what_nobody_has_known_for_ten_minutes_ends_with_a_warning() -> None:
    now, others = rules({APP: f"{ACR}/mirror/app"}), Others(Place(None, away=600.0))
    with structlog.testing.capture_logs() as logs:
        outcome = await ended(handler(now, others), requested(f"{TEAM}:v1"))
    assert outcome["result"] == "skipped"
    assert [(each["event"], each["log_level"]) for each in logs] == [("copy done", "warning")]
    assert "no process has had the rules that queued it for 10 minutes" in outcome["warnings"][0]


async def test_a_reload_decides_from_the_next_attempt_on() -> None:
    others = Others(Place(None, is_former=True))
    made, now = handler(BEFORE, others), rules({APP: f"{ACR}/mirror/app"})
    stored = requested(f"{TEAM}:v1")
    assert await begin(made, stored) == stored
    made.renew(now)
    assert isinstance(await begin(made, stored), Outcome)
    assert others.renewed == [now.digest]


def test_a_forged_digest_counts_as_none() -> None:
    assert rules_of({"rules": BEFORE.digest}) == BEFORE.digest
    for forged in ("a b", "A" * 32, 7, None, "0" * 33):
        assert rules_of({"rules": forged}) == ""


def test_two_versions_of_a_file_have_parts_in_common_and_other_options_change_none() -> None:
    fewer = rules({APP: {"to": f"{ACR}/mirror/app", "platforms": ["linux/arm64"]}})
    assert set(fewer.parts) < set(BEFORE.parts)
    assert not set(rules({APP: f"{ACR}/another/app"}).parts) & set(BEFORE.parts)
    many = rules({f"{HARBOR}/p{n}/app": f"{ACR}/m/p{n}" for n in range(300)})
    assert len(many.parts) == 200
