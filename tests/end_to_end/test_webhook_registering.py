"""The reconcile registers webhook policies, where the settings ask for it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.running import TOKEN, replicator, running
from tests.standins.faults import Answer, Cut, Fault, Hold
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from aiohttp import web

    from tests.end_to_end.conftest import House
    from tests.running import Serving

URL = "https://replicator.example.com/webhooks/harbor"
EVERYTHING = {"HARBOR/**": "ACR/image-syncer/{flat}"}
REGISTERING = {"REPLICATOR_RECONCILE": "1s", "REPLICATOR_WEBHOOK_REGISTER": "true", "REPLICATOR_WEBHOOK_URL": URL}


def serving_(
    house: House, *, images: dict[str, str] | None = None, **settings: str
) -> AbstractAsyncContextManager[Serving]:
    rules = house.rules(images or EVERYTHING)
    return running("serve", "--config", rules, cwd=house.directory, settings={**REGISTERING, **settings})


@pytest.fixture
def allowed(house: House) -> House:
    """A house whose robot account may manage webhook policies."""
    accounts = house.harbor.projects.accounts
    accounts[HARBOR_ROBOT[0]] = replace(accounts[HARBOR_ROBOT[0]], administers=True)
    return house


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[Upstream, str]]:
    """An address that is known before there is anyone behind it, as a proxy's in front of the replicator is."""

    async def pass_on(request: web.BaseRequest) -> web.StreamResponse:
        return await behind.forward(request, headers={"Authorization": request.headers["Authorization"]})

    async with Upstream("") as behind, serve(pass_on) as host:
        yield behind, f"http://{host}/webhooks/harbor"


async def test_a_project_that_appears_later_is_registered_and_its_pushes_arrive(allowed: House) -> None:
    async with proxy() as (behind, url), serving_(allowed, REPLICATOR_WEBHOOK_URL=url) as serving:
        behind.host = serving.address
        await serving.until("webhook registered", project="team", change="created")
        assert not allowed.harbor.webhooks.of("later")
        allowed.harbor.add_project("later")
        await serving.until("webhook registered", project="later", change="created")
        (policy,) = allowed.harbor.webhooks.of("later")
        assert policy.body["targets"][0]["address"] == url
        assert policy.body["targets"][0]["auth_header"] == f"Bearer {TOKEN}"
        pushed = image(1)
        await push(allowed.harbor.host, "later/app", "v1", pushed, HARBOR_ROBOT)
        (taken,) = await serving.until("webhook taken")
        assert taken["queued"][0]["source"] == f"{allowed.harbor.host}/later/app:v1"
        await serving.until("copy done", destination=f"{allowed.acr.host}/image-syncer/later-app:v1")
        await verify_tree(allowed.behind_acr, "image-syncer/later-app", "v1", pushed)
        assert not [line for line in serving.lines if TOKEN in json.dumps(line)]


async def test_what_is_right_stays_what_differs_is_corrected_and_others_are_left_alone(allowed: House) -> None:
    other = allowed.harbor.add_policy("team", "https://other.example.com/", name="other")
    before = json.dumps(other.body)
    async with serving_(allowed) as serving:
        await serving.until("webhook registered", project="team", change="created")
        (ours,) = [each for each in allowed.harbor.webhooks.of("team") if each is not other]
        ours.body["enabled"] = False
        await serving.until("webhook registered", project="team", change="updated")
        assert ours.enabled
        done = len(serving.said("reconcile done"))
        await serving.until("reconcile done", count=done + 2, unregistered=0)
        assert len(serving.said("webhook registered", project="team")) == 2
    assert json.dumps(other.body) == before
    changes = [entry for entry in allowed.harbor.faults.log if entry.method in ("POST", "PUT", "DELETE")]
    assert [entry.method for entry in changes if "/team/" in entry.path] == ["POST", "PUT"]


async def test_a_login_that_may_not_is_told_once_a_project_and_the_reconcile_goes_on(house: House) -> None:
    await push(house.behind_harbor, "team/app", "v1", image(1))
    async with serving_(house) as serving:
        (line, _) = await serving.until("webhook not registered", count=2)
        assert (line["level"], line["project"]) == ("warning", "library")
        assert "notification-policy" in line["error"]
        await serving.until("copy done", lane="backfill")
        await serving.until("reconcile done", count=3, unregistered=2)
        assert len(serving.said("webhook not registered")) == 2
        told = await replicator("status", cwd=house.directory)
        assert "2 projects without a verified webhook policy" in told.out
        last = json.loads((await replicator("status", "--json", cwd=house.directory)).out)["reconcile"]["last"]
        assert (last["unregistered"], last["failed"], last["complete"]) == (2, 0, True)
        accounts = house.harbor.projects.accounts
        accounts[HARBOR_ROBOT[0]] = replace(accounts[HARBOR_ROBOT[0]], administers=True)
        await serving.until("webhook registered", count=2)
        await serving.until("reconcile done", unregistered=0)
    assert not house.harbor.leaks


@pytest.mark.parametrize(
    "action", [Answer(403, "FORBIDDEN"), Answer(500, "INTERNAL"), Cut()], ids=lambda each: str(each)[:12]
)
async def test_a_harbor_that_fails_in_this_keeps_nothing_from_being_compared(
    allowed: House, action: Answer | Cut
) -> None:
    allowed.harbor.faults.add(Fault(action, None, "/api/v2.0/systeminfo", times=None))
    await push(allowed.behind_harbor, "team/app", "v1", image(1))
    async with serving_(allowed) as serving:
        await serving.until("copy done", lane="backfill", timeout=90)
        await serving.until("reconcile done")
        assert not serving.said("reconcile failed")
        assert not serving.said("webhook registration broken")


async def test_webhooks_that_are_switched_off_in_harbor_are_told_once_and_again_when_they_were_on(
    allowed: House,
) -> None:
    allowed.harbor.api.notifies = False
    async with serving_(allowed) as serving:
        (line,) = await serving.until("webhooks switched off")
        assert (line["level"], line["registry"]) == ("warning", allowed.harbor.host)
        assert "Webhooks enabled" in line["error"]
        done = len(await serving.until("reconcile done", count=3))
        assert len(serving.said("webhooks switched off")) == 1
        allowed.harbor.api.notifies = True
        done = len(await serving.until("reconcile done", count=done + 2))
        allowed.harbor.api.notifies = False
        await serving.until("webhooks switched off", count=2)


async def test_a_cause_that_changes_is_told_again(house: House) -> None:
    async with serving_(house, images={"HARBOR/team/**": "ACR/image-syncer/{flat}"}) as serving:
        (line,) = await serving.until("webhook not registered")
        assert "notification-policy" in line["error"]
        house.harbor.faults.add(Fault(Answer(409, "CONFLICT"), "GET", "/webhook/policies", times=None))
        (_, line) = await serving.until("webhook not registered", count=2)
        assert "run it again" in line["error"]


async def test_a_source_that_is_no_harbor_has_no_policy_to_miss(allowed: House) -> None:
    images = {"ACR/cache/app": "ACR/image-syncer/app", "HARBOR/team/app": "ACR/image-syncer/other"}
    await push(allowed.behind_harbor, "team/app", "v1", image(1))
    await push(allowed.behind_acr, "cache/app", "v1", image(2))
    async with serving_(allowed, images=images) as serving:
        await serving.until("webhook registered", project="team", change="created")
        (line,) = await serving.until("webhook not registered")
        assert (line["level"], line["registry"]) == ("info", allowed.acr.host)
        await serving.until("reconcile done", count=2, unregistered=0)
        assert len(serving.said("webhook not registered")) == 1
    (policy,) = allowed.harbor.webhooks.of("team")
    assert policy.body["targets"][0]["address"] == f"{URL}/{allowed.harbor.host}"


async def test_that_harbor_takes_any_certificate_stays_as_a_person_decided(allowed: House) -> None:
    policy = allowed.harbor.add_policy("team", URL, name="replicator", skip_cert_verify=True, auth_header="Bearer old")
    async with serving_(allowed) as serving:
        await serving.until("webhook registered", project="team", change="updated")
    assert policy.body["targets"][0]["skip_cert_verify"] is True
    assert policy.body["targets"][0]["auth_header"] == f"Bearer {TOKEN}"
    (made,) = allowed.harbor.webhooks.of("library")
    assert made.body["targets"][0]["skip_cert_verify"] is False


async def test_without_the_setting_no_policy_is_looked_at(allowed: House) -> None:
    async with serving_(allowed, REPLICATOR_WEBHOOK_REGISTER="false") as serving:
        (line, *_) = await serving.until("reconcile done")
        assert "unregistered" not in line
    assert allowed.harbor.faults.log.count(None, "/webhook/policies") == 0


@pytest.mark.parametrize("command", ["serve", "worker", "check"])
async def test_a_setup_that_can_not_do_it_is_refused_with_all_that_is_missing(house: House, command: str) -> None:
    rules = house.rules(EVERYTHING)
    told = await replicator(
        command,
        "--config",
        rules,
        cwd=house.directory,
        settings={"REPLICATOR_WEBHOOK_REGISTER": "true", "REPLICATOR_RECONCILE": "off"},
    )
    assert told.code == (1 if command == "check" else 2), told.said
    for name in ("REPLICATOR_WEBHOOK_URL", "REPLICATOR_WEBHOOK_TOKEN", "REPLICATOR_RECONCILE"):
        assert name in told.said
    assert HARBOR_ADMIN[1] not in told.said


async def test_a_signal_does_not_wait_for_a_harbor_that_is_silent_about_policies(allowed: House) -> None:
    held = allowed.harbor.faults.add(Fault(Hold(), None, "/webhook/policies", times=None))
    async with serving_(allowed) as serving:
        await serving.until("reconcile started")
        async with asyncio.timeout(30):
            while not held.hits:
                await asyncio.sleep(0.01)
        assert await serving.stop() == 0
        await serving.until("reconcile stopped")
