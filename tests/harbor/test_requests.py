"""Requests to Harbor's REST API, and how its answers are read."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from replicator.harbor import HarborApi
from replicator.harbor.api import SystemInfo, narrow_login
from replicator.harbor.policy import EVENT_TYPES, WebhookApi
from replicator.harbor.registration import Change, Policies
from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.replication.transfer import access_by
from replicator.rules import parse
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT
from tests.standins.receiver import receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.registry.transport import Transport
    from tests.standins.harbor import HarborStandIn

URL = "https://replicator.example.com/webhooks/harbor"
NOBODY = Access(insecure=True)


@asynccontextmanager
async def way(
    harbor: HarborStandIn,
    access: Access = Access(*HARBOR_ADMIN, insecure=True),  # noqa: B008 - a frozen value
) -> AsyncIterator[Transport]:
    async with Registries(lambda _: access) as registries:
        yield registries.transport(Repository(harbor.host, "team/x"))


@asynccontextmanager
async def policies_of(harbor: HarborStandIn, pattern: str) -> AsyncIterator[Policies]:
    """The policies of a rule's projects, with an administrator's login."""
    login = {"username": HARBOR_ADMIN[0], "password": HARBOR_ADMIN[1], "insecure": True}
    content = {
        "auth": {harbor.host: login, "registry.example.com": {"anonymous": True}},
        "images": {f"{harbor.host}/{pattern}": "registry.example.com/{repository}"},
    }
    rules = parse(json.dumps(content), "rules.json", environ={})
    async with Registries(access_by(rules.credentials)) as registries:
        yield Policies(rules, registries)


async def test_no_list_is_asked_for_beyond_what_harbor_takes(harbor: HarborStandIn) -> None:
    async with receiver() as taker, way(harbor) as transport:
        harbor.add_policy("team", taker.url, name="replicator")
        await push(harbor.host, "team/app/api", "v1", image(1), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        harbor.faults.log.clear()
        api, webhooks = HarborApi(harbor.host, transport), WebhookApi(harbor.host, "team", transport)
        assert [name async for name in api.projects()] == ["library", "team"]
        assert [row.repository.name async for row in api.repositories("team")] == ["team/app/api"]
        assert [len(page) async for page in api.artifacts_of_project("team")] == [1]
        assert [len(page) async for page in api.artifacts(Repository(harbor.host, "team/app/api"))] == [1]
        (policy,) = await webhooks.policies()
        assert [each.status for each in await webhooks.deliveries(policy, 1000) or ()] == ["Success"]
    asked = [(entry.path, parse_qs(entry.query), entry.status) for entry in harbor.faults.log.select(path="^/api/")]
    assert len(asked) == 6
    for path, query, status in asked:
        assert status == 200, path
        assert int(query["page"][0]) >= 1, path
        assert 1 <= int(query["page_size"][0]) <= 100, path
        assert query["sort"][0].removeprefix("-") in {"id", "project_id", "repository_id"}, path


async def test_a_policy_behind_a_hundred_others_is_found(harbor: HarborStandIn) -> None:
    for number in range(150):
        harbor.add_policy("team", "https://other.example.com/", name=f"other-{number}")
    harbor.add_policy("team", URL, name="replicator", payload_format="CloudEvents", event_types=EVENT_TYPES)
    async with policies_of(harbor, "team/**") as policies:
        (done,) = await policies.register(URL, None)
    assert done.change is Change.UNCHANGED
    assert len(harbor.webhooks.of("team")) == 151


async def test_a_project_named_like_the_number_of_another_gets_its_own_policy(harbor: HarborStandIn) -> None:
    library = harbor.projects.by_name["library"]
    harbor.add_project(str(library.id))
    async with policies_of(harbor, f"{library.id}/**") as policies:
        assert [done.change for done in await policies.register(URL, None)] == [Change.CREATED]
        assert [done.change for done in await policies.register(f"{URL}/moved", None)] == [Change.UPDATED]
        ((shown,), _) = await policies.show(URL)
        assert shown.project == str(library.id)
        assert harbor.webhooks.of("library") == []
        assert len(harbor.webhooks.of(str(library.id))) == 1
        assert [done.change for done in await policies.unregister(URL)] == [Change.REMOVED]
    assert not harbor.webhooks.policies


async def test_a_harbor_without_a_list_of_deliveries_is_no_failure(harbor: HarborStandIn) -> None:
    harbor.add_policy("team", URL, name="replicator")
    harbor.faults.add(Fault(Answer(404, "NOT_FOUND"), "GET", "/executions", times=None))
    async with policies_of(harbor, "team/**") as policies:
        ((shown,), failed) = await policies.show(None)
    assert shown.deliveries is None
    assert failed == []


async def test_a_few_deliveries_are_requested_the_newest_first(harbor: HarborStandIn) -> None:
    async with receiver([202] * 11 + [500] * 3) as taker, way(harbor) as transport:
        harbor.add_policy("team", taker.url, name="replicator")
        for number in range(12):
            harbor.deliver("PUSH_ARTIFACT", "team/app", f"v{number}", image(1).digest)
            await harbor.deliveries_settled()
        api = WebhookApi(harbor.host, "team", transport)
        (policy,) = await api.policies()
        found = await api.deliveries(policy)
    assert found is not None
    assert len(found) == 5
    assert found[0].status == "Error"
    assert "500" in found[0].detail


async def test_a_login_can_see_what_harbor_says_of_itself_and_its_absence_is_no_failure(harbor: HarborStandIn) -> None:
    harbor.api.notifies = False
    harbor.api.external_url = "https://Harbor.example.com:8443"
    async with way(harbor) as transport:
        system = await WebhookApi(harbor.host, "team", transport).system()
    assert system == SystemInfo(harbor.api.version, notifies=False, names=("harbor.example.com:8443",))
    async with way(harbor, NOBODY) as transport:
        assert await WebhookApi(harbor.host, "team", transport).system() == SystemInfo()


@pytest.mark.parametrize("said", [None, [], "x", {}, {"harbor_version": "v2"}])
def test_what_is_no_answer_of_harbors_says_nothing(said: object) -> None:
    assert SystemInfo.read(said) is None
    odd = {"auth_mode": "", "harbor_version": 1, "notification_enable": "no", "external_url": 7, "registry_url": "a b"}
    assert SystemInfo.read(odd) == SystemInfo()


async def test_policies_that_harbor_keeps_are_disabled_and_told(harbor: HarborStandIn) -> None:
    harbor.webhooks.busy_seconds = 3600.0
    async with receiver([202] * 9) as taker, policies_of(harbor, "team/**") as policies:
        kept = harbor.add_policy("team", taker.url, name="replicator")
        harbor.add_policy("team", taker.url, name="by-hand").body["enabled"] = False
        await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
        (done,) = await policies.unregister(taker.url, patience=0.5)
        assert done.change is Change.FAILED
        assert done.note.startswith("replicator is disabled")
        assert "run this again" in done.note
        assert list(harbor.webhooks.policies.values()) == [kept]
        assert not kept.enabled
        harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "DELETE", "/webhook/policies", times=None))
        (done,) = await policies.unregister(taker.url, patience=5.0)
        assert "notification-policy" in done.note
        harbor.faults.faults.clear()
        harbor.webhooks.busy_seconds = 0.0
        (done,) = await policies.unregister(taker.url)
        assert (done.change, done.note) == (Change.REMOVED, "replicator")


async def test_a_policy_that_can_not_be_changed_is_deleted(harbor: HarborStandIn) -> None:
    async with receiver() as taker, policies_of(harbor, "team/**") as policies:
        harbor.add_policy("team", taker.url, name="replicator")
        harbor.faults.add(Fault(Answer(400, "BAD_REQUEST"), "PUT", "/webhook/policies"))
        (done,) = await policies.unregister(taker.url)
    assert done.change is Change.REMOVED


async def test_two_spellings_of_a_harbor_agree_on_its_policy(harbor: HarborStandIn) -> None:
    public = "harbor.example.com"
    login = {"username": HARBOR_ADMIN[0], "password": HARBOR_ADMIN[1], "endpoint": harbor.url}
    content = {
        "auth": {public: login, f"{public}:443": login, "registry.example.com": {"anonymous": True}},
        "images": {
            f"{public}/team/a": "registry.example.com/a",
            f"{public}:443/team/b": "registry.example.com/b",
        },
    }
    rules = parse(json.dumps(content), "rules.json", environ={})
    url = "https://replicator.example.com/webhooks/harbor"
    async with Registries(access_by(rules.credentials)) as registries:
        for address, registered in ((url, url), (f"{url}/{public}:443", f"{url}/{public}")):
            for _ in range(2):
                done = await Policies(rules, registries).register(address, "token")
            assert [each.change for each in done] == [Change.UNCHANGED], "and it is said once"
            (policy,) = harbor.webhooks.of("team")
            assert policy.body["targets"][0]["address"] == registered


@pytest.mark.parametrize("refused", ["", ":443"])
async def test_a_project_under_two_spellings_of_a_harbor_is_shown_once_if_one_of_their_logins_is_good(
    harbor: HarborStandIn, refused: str
) -> None:
    public = "harbor.example.com"
    auth: dict[str, dict[str, object]] = {
        f"{public}{port}": {"username": HARBOR_ADMIN[0], "password": HARBOR_ADMIN[1], "endpoint": harbor.url}
        for port in ("", ":443")
    }
    auth[f"{public}{refused}"]["password"] = "wrong"
    images = {
        f"{public}{port}/team/{name}": f"registry.example.com/{name}" for name, port in (("a", ""), ("b", ":443"))
    }
    content = {"auth": auth | {"registry.example.com": {"anonymous": True}}, "images": images}
    rules = parse(json.dumps(content), "rules.json", environ={})
    harbor.add_policy("team", URL, name="replicator")
    async with Registries(access_by(rules.credentials)) as registries:
        shown, others = await Policies(rules, registries).show(URL)
    assert [each.project for each in shown] == ["team"]
    assert others == []


@pytest.mark.parametrize(
    ("username", "project"),
    [
        ("robot$team+ci", "team"),
        ("bot$my.team-1+ci+more", "my.team-1"),
        ("robot$replicator", None),
        ("someone+else", None),
        ("", None),
        (None, None),
    ],
)
def test_the_name_of_a_robot_tells_the_project_that_it_is_bound_to(username: str | None, project: str | None) -> None:
    said = narrow_login(username)
    assert bool(said) is (project is not None)
    assert f"of the project {project}," in said or not said
