"""The Harbor stand-in delivers events as Harbor does: content, format, attempts."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp.web
import pytest
import trustme

from tests.standins.harbor import HarborStandIn
from tests.standins.harbor_webhooks import cloud_event, push_payload
from tests.standins.images import image, multi_arch, push
from tests.standins.layouts import write_directory
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT, basic
from tests.standins.receiver import receiver
from tests.standins.server import serve
from tests.standins.skopeo import push_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytest_plugins = ["tests.standins.fixtures"]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=basic(HARBOR_ADMIN)) as client:
        yield client


def policy_body(address: str, name: str = "replicator", **target: Any) -> dict[str, Any]:
    return {
        "name": name,
        "enabled": True,
        "event_types": ["PUSH_ARTIFACT"],
        "targets": [{"type": "http", "address": address, **target}],
    }


async def test_a_push_is_told_in_the_default_format(harbor: HarborStandIn) -> None:
    async with receiver() as taker:
        harbor.add_policy("team", taker.url, auth_header="Bearer secret")
        await push(harbor.host, "team/app/api", "v1", image(1), HARBOR_ROBOT)
        await harbor.deliveries_settled()
    (event,), (headers,) = taker.events, taker.headers
    assert (event["type"], event["operator"]) == ("PUSH_ARTIFACT", HARBOR_ROBOT[0])
    assert isinstance(event["occur_at"], int)
    assert event["event_data"]["resources"] == [
        {"digest": image(1).digest, "tag": "v1", "resource_url": f"{harbor.host}/team/app/api:v1"}
    ]
    about = event["event_data"]["repository"]
    assert isinstance(about.pop("date_created"), int)
    assert about == {
        "name": "app/api",
        "namespace": "team",
        "repo_full_name": "team/app/api",
        "repo_type": "private",
    }
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer secret"
    (delivery,) = harbor.deliveries
    assert (delivery.attempt, delivery.status, delivery.body) == (1, 202, "noted")


async def test_a_push_is_told_as_a_cloud_event(harbor: HarborStandIn) -> None:
    async with receiver() as taker:
        policy = harbor.add_policy("library", taker.url, payload_format="CloudEvents")
        await push(harbor.host, "library/nginx", "1", image(1), HARBOR_ADMIN)
        await harbor.deliveries_settled()
    (event,), (headers,) = taker.events, taker.headers
    assert headers["Content-Type"] == "application/cloudevents+json"
    assert not [name for name in headers if name.lower().startswith("ce-")]
    assert (event["specversion"], event["type"]) == ("1.0", "harbor.artifact.pushed")
    assert event["source"] == f"/projects/1/webhook/policies/{policy.id}"
    assert event["data"]["resources"][0]["tag"] == "1"
    assert event["data"]["repository"]["repo_type"] == "public"
    assert event["operator"] == "admin"


async def test_children_are_told_by_digest_before_their_index(harbor: HarborStandIn, tmp_path: Path) -> None:
    pushed = multi_arch(1)
    write_directory(tmp_path, pushed)
    async with receiver() as taker:
        harbor.add_policy("team", taker.url)
        await push_directory(str(tmp_path), f"{harbor.host}/team/app:v1", HARBOR_ROBOT)
        await harbor.deliveries_settled()
    resources = [event["event_data"]["resources"][0] for event in taker.events]
    told = {resource["tag"]: resource["digest"] for resource in resources}
    assert told == {**{child.digest: child.digest for child in pushed.children}, "v1": pushed.digest}


async def test_an_event_is_tried_three_times_under_one_id(harbor: HarborStandIn) -> None:
    async with receiver([500, 503]) as taker:
        harbor.add_policy("team", taker.url, payload_format="CloudEvents")
        await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        assert [(each.attempt, each.status) for each in harbor.deliveries] == [(1, 500), (2, 503), (3, 202)]
        assert len({event["id"] for event in taker.events}) == 1


async def test_an_event_that_fails_three_times_is_gone(harbor: HarborStandIn) -> None:
    async with receiver([500] * 9) as taker:
        harbor.add_policy("team", taker.url)
        await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        assert len(taker.events) == 3


async def test_a_receiver_that_does_not_answer_in_time_has_failed(harbor_upstream: str) -> None:
    async with (
        receiver(stalls=True) as taker,
        HarborStandIn(
            harbor_upstream,
            users=dict([HARBOR_ROBOT]),
            projects={"team": False},
            webhook_timeout=0.2,
            webhook_attempts=2,
            webhook_backoff=(0.01,),
        ) as harbor,
    ):
        harbor.add_policy("team", taker.url)
        await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        assert [(each.attempt, each.status) for each in harbor.deliveries] == [(1, None), (2, None)]
        assert "Timeout" in harbor.deliveries[0].error


async def test_a_receiver_that_is_not_there_has_failed(harbor: HarborStandIn) -> None:
    async with receiver() as taker:
        harbor.add_policy("team", taker.url)
    harbor.deliver("PUSH_ARTIFACT", "team/app", "1", image(1).digest)
    await harbor.deliveries_settled()
    assert [each.status for each in harbor.deliveries] == [None, None, None]


async def test_what_is_under_way_ends_with_the_stand_in(harbor_upstream: str) -> None:
    async with receiver([500]) as taker:
        async with HarborStandIn(harbor_upstream, users={}, projects={"team": False}) as harbor:
            harbor.add_policy("team", taker.url)
            harbor.deliver("PUSH_ARTIFACT", "team/app", "1", image(1).digest)
        assert not harbor.webhooks._jobs


async def test_a_retag_and_a_push_of_no_interest_are_not_told(harbor: HarborStandIn) -> None:
    async with receiver() as taker:
        harbor.add_policy("team", taker.url)
        harbor.add_policy("library", taker.url, event_types=["DELETE_ARTIFACT"])
        await push(harbor.host, "library/nginx", "1", image(1), HARBOR_ROBOT)
        await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
        await harbor.retag("team/app", "1", "latest")
        await harbor.deliveries_settled()
        assert [event["event_data"]["resources"][0]["tag"] for event in taker.events] == ["1"]


async def test_any_event_can_be_sent_by_hand(harbor: HarborStandIn) -> None:
    async with receiver() as taker:
        harbor.add_policy("team", taker.url, payload_format="CloudEvents")
        harbor.deliver("SCANNING_COMPLETED", "team/app", "", image(1).digest)
        harbor.deliver("QUOTA_EXCEED", "team/app", None, None, changes={"event_data": {"custom": 1}})
        await harbor.deliveries_settled()
    by_type = {event["type"]: event["data"] for event in taker.events}
    (scanned,) = by_type["harbor.scan.completed"]["resources"]
    assert (scanned["digest"], scanned["tag"]) == (image(1).digest, "")
    assert by_type["harbor.quota.exceeded"] == {"custom": 1}


async def test_pulls_and_deletions_are_told_to_who_asked(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
    manifests = f"{harbor.url}/v2/team/app/manifests"
    async with receiver() as taker:
        harbor.add_policy("team", taker.url, event_types=["PULL_ARTIFACT", "DELETE_ARTIFACT"])
        async with session.get(f"{manifests}/1", headers={"Accept": image(1).media_type}) as answer:
            assert answer.status == 200
        await harbor.deliveries_settled()
        async with session.delete(f"{manifests}/{image(1).digest}") as answer:
            assert answer.status == 202
        await harbor.deliveries_settled()
    assert [event["type"] for event in taker.events] == ["PULL_ARTIFACT", "DELETE_ARTIFACT"]


async def test_policies_are_managed_over_the_api(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    url = f"{harbor.url}/api/v2.0/projects/team/webhook/policies"
    async with receiver() as taker:
        body = policy_body(taker.url, payload_format="CloudEvents")
        async with session.post(url, json=body) as answer:
            assert answer.status == 201
            location = answer.headers["Location"]
        assert location.startswith("/api/v2.0/projects/team/webhook/policies/")
        async with session.post(url, json=body) as answer:
            assert answer.status == 409
        async with session.get(url) as answer:
            assert [(row["name"], row["enabled"]) for row in await answer.json()] == [("replicator", True)]
        await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        async with session.get(f"{harbor.url}{location}/executions") as answer:
            (execution,) = await answer.json()
        assert execution["status"] == "Success"
        async with session.put(f"{harbor.url}{location}", json={**body, "enabled": False}) as answer:
            assert answer.status == 200
        await push(harbor.host, "team/app", "2", image(2), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        assert len(taker.events) == 1
    async with session.delete(f"{harbor.url}{location}") as answer:
        assert answer.status == 200
    async with session.get(f"{harbor.url}{location}") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"event_types": ["PUSH"]}, 400),
        ({"event_types": []}, 400),
        ({"targets": []}, 400),
        ({"targets": [{"type": "http", "address": "ftp://host"}]}, 400),
        ({"targets": [{"type": "http", "address": "http://host", "payload_format": "XML"}]}, 400),
        ({"targets": "no"}, 422),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused(
    harbor: HarborStandIn, session: aiohttp.ClientSession, change: dict[str, Any], status: int
) -> None:
    url = f"{harbor.url}/api/v2.0/projects/team/webhook/policies"
    async with session.post(url, json=policy_body("http://localhost/") | change) as answer:
        assert answer.status == status


async def test_a_receivers_certificate_is_verified_unless_told_otherwise(harbor_upstream: str) -> None:
    authority = trustme.CA()
    context, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(trust)

    async def taken(_: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        return aiohttp.web.Response(status=204)

    for trusted, skip, statuses in ((None, False, [None]), (None, True, [204]), (trust, False, [204])):
        async with (
            serve(taken, tls=context) as host,
            HarborStandIn(
                harbor_upstream, users={}, projects={"team": False}, webhook_attempts=1, webhook_trust=trusted
            ) as harbor,
        ):
            harbor.add_policy("team", f"https://{host}/", skip_cert_verify=skip)
            harbor.deliver("PUSH_ARTIFACT", "team/app", "1", image(1).digest)
            await harbor.deliveries_settled()
            assert [each.status for each in harbor.deliveries] == statuses


def test_payloads_can_be_built_alone_and_leave_out_what_harbor_may_leave_out() -> None:
    payload = push_payload("harbor.example.com", "team/app", None, None, occurred=1767225600, created=None)
    assert payload["event_data"]["resources"] == [{}]
    assert "date_created" not in payload["event_data"]["repository"]
    event = cloud_event(payload, project_id=7, policy_id=3, event_id="one")
    assert (event["id"], event["time"], event["source"]) == (
        "one",
        "2026-01-01T00:00:00Z",
        "/projects/7/webhook/policies/3",
    )
