"""``replicator webhook``: policies are created, corrected, shown, tested and removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.harbor.policy import EVENT_TYPES
from tests.running import TOKEN, replicator, running
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT
from tests.standins.receiver import receiver

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House
    from tests.running import Ended

URL = "https://replicator.example.com/webhooks/harbor"
EVERYTHING = {"HARBOR/**": "ACR/image-syncer/{flat}"}


async def webhook(
    house: House, command: str, *arguments: str, images: dict[str, Any] | None = None, url: str | None = URL
) -> Ended:
    """Run ``replicator webhook`` with the login of an administrator in the rules."""
    rules = house.rules(images or EVERYTHING)
    robot, administrator = (json.dumps(part) for part in (HARBOR_ROBOT, HARBOR_ADMIN))
    text = rules.read_text()
    for old, new in zip(json.loads(robot), json.loads(administrator), strict=True):
        text = text.replace(f'"{old}"', f'"{new}"')
    rules.write_text(text)
    return await called(house, command, *arguments, "--config", str(rules), url=url)


async def called(house: House, command: str, *arguments: str, url: str | None = URL) -> Ended:
    given = ["--url", url] if url else []
    given += ["--sidecar"] if command == "register" and url and "//127.0.0.1:" in url else []
    ended = await replicator(
        "webhook", command, *given, *arguments, cwd=house.directory, settings={"REPLICATOR_WEBHOOK_TOKEN": TOKEN}
    )
    assert TOKEN not in ended.said
    assert HARBOR_ADMIN[1] not in ended.said
    assert "Traceback" not in ended.said
    return ended


def changes(ended: Ended) -> dict[str, str]:
    return {row["project"]: row["change"] for row in json.loads(ended.out)}


async def test_a_push_arrives_after_the_policies_were_registered_and_a_second_run_changes_nothing(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        url = f"{serving.url}/webhooks/harbor"
        first = await webhook(house, "register", "--json", url=url)
        assert first.code == 0, first.said
        assert changes(first) == {"library": "created", "team": "created"}
        (policy,) = house.harbor.webhooks.of("team")
        assert (policy.body["name"], policy.body["event_types"]) == (
            "replicator",
            ["PUSH_ARTIFACT", "SCANNING_COMPLETED"],
        )
        assert policy.body["targets"] == [
            {
                "type": "http",
                "address": url,
                "auth_header": f"Bearer {TOKEN}",
                "skip_cert_verify": False,
                "payload_format": "CloudEvents",
            }
        ]
        again = await webhook(house, "register", "--json", url=url)
        assert changes(again) == {"library": "unchanged", "team": "unchanged"}
        assert len(house.harbor.webhooks.policies) == 2
        await push(house.harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
        await serving.until("copy done")
        await house.harbor.deliveries_settled()
        listed = await webhook(house, "list", "--json", url=url)
        assert listed.code == 0, listed.said
        shown = {row["project"]: row for row in json.loads(listed.out)["policies"]}
        assert [each["status"] for each in shown["team"]["deliveries"]] == ["Success"]
        assert shown["team"]["targets"][0]["authorization"] is True


@pytest.mark.parametrize(
    "changed",
    [
        {"enabled": False},
        {"event_types": ["PUSH_ARTIFACT"]},
        {"event_types": [*EVENT_TYPES, "PULL_ARTIFACT"]},
        {"auth_header": "Bearer old"},
        {"address": "https://elsewhere.example.com/webhooks/harbor"},
        {"address": f"{URL}/"},
        {"payload_format": "Default"},
        {"skip_cert_verify": True},
    ],
    ids=["disabled", "pushes", "events", "token", "address", "slash", "format", "skip_cert_verify"],
)
async def test_a_policy_of_ours_that_differs_is_corrected_and_others_are_left_alone(
    house: House, changed: dict[str, Any]
) -> None:
    right = {"auth_header": f"Bearer {TOKEN}", "payload_format": "CloudEvents"}
    target = {name: value for name, value in changed.items() if name in {*right, "address", "skip_cert_verify"}}
    policy = house.harbor.add_policy("team", **{"address": URL, "name": "replicator", **right, **target})
    policy.body |= {name: value for name, value in changed.items() if name not in target}
    other = house.harbor.add_policy("team", "https://other.example.com/", name="other")
    before = json.dumps(other.body)
    ended = await webhook(house, "register", "--project", "team", "--json")
    assert changes(ended) == {"team": "updated"}
    assert json.dumps(other.body) == before
    assert changes(await webhook(house, "register", "--project", "team", "--json")) == {"team": "unchanged"}


@pytest.mark.parametrize("end", ["/", "/127.0.0.1:5000/", "/?registry=h.example.com"])
async def test_an_address_with_a_slash_at_the_end_is_registered_without(house: House, end: str) -> None:
    assert (await webhook(house, "register", "--project", "team", url=f"{URL}{end}")).code == 0
    (policy,) = house.harbor.webhooks.of("team")
    assert policy.body["targets"][0]["address"] == f"{URL}/{house.harbor.host}" if end != "/" else URL


async def test_a_policy_of_another_name_that_sends_to_our_address_is_ours(house: House) -> None:
    policy = house.harbor.add_policy(
        "team", URL, name="by-hand", auth_header=TOKEN, payload_format="CloudEvents", event_types=EVENT_TYPES
    )
    policy.body["enabled"] = True
    ended = await webhook(house, "register", "--project", "team", "--json")
    assert changes(ended) == {"team": "unchanged"}
    policy.body["enabled"] = False
    assert changes(await webhook(house, "register", "--project", "team", "--json")) == {"team": "updated"}
    assert [each.body["name"] for each in house.harbor.webhooks.of("team")] == ["by-hand"]


async def test_an_old_harbor_gets_the_default_format(house: House) -> None:
    house.harbor.api.version = "v2.7.4-00000000"
    assert (await webhook(house, "register")).code == 0
    (policy,) = house.harbor.webhooks.of("team")
    assert "payload_format" not in policy.body["targets"][0]
    assert changes(await webhook(house, "register", "--json"))["team"] == "unchanged"


async def test_webhooks_that_are_switched_off_in_harbor_are_told(house: House) -> None:
    house.harbor.api.notifies = False
    first = await webhook(house, "register")
    assert first.code == 0, first.said
    assert f"{house.harbor.host}: webhooks are switched off" in first.out
    assert "Webhooks enabled" in first.out
    assert {row["switched_off"] for row in json.loads((await webhook(house, "register", "--json")).out)} == {True}
    assert "webhooks are switched off" in (await webhook(house, "list")).out
    assert json.loads((await webhook(house, "list", "--json")).out)["switched_off"] == [house.harbor.host]
    house.harbor.api.notifies = True
    for command in ("register", "list"):
        assert "switched off" not in (await webhook(house, command)).out
    assert json.loads((await webhook(house, "list", "--json")).out)["switched_off"] == []


async def test_the_list_keeps_its_columns_when_projects_fail_or_have_no_policy(house: House) -> None:
    assert (await webhook(house, "register", "--project", "team")).code == 0
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/projects/library/webhook/policies", times=None))
    images = EVERYTHING | {"HARBOR/nowhere/app": "ACR/image-syncer/nowhere"}
    ended = await webhook(house, "list", images=images)
    assert ended.code == 1
    heads, *rows = ended.out.splitlines()
    host = house.harbor.host
    assert heads.split("\t") == ["project", "policy", "enabled", "events", "format", "address", "last deliveries"]
    assert {row.split("\t")[0]: row.split("\t")[1] for row in rows[:3]} == {
        f"{host}/team": "replicator",
        f"{host}/library": "failed",
        f"{host}/nowhere": "failed",
    }
    assert max(map(len, (heads, *rows[:3]))) < 200, "no reason widens a column"
    failed = [row.partition(": ")[0].split()[1] for row in rows[3:] if row.startswith("failed")]
    assert failed == [f"{host}/library", f"{host}/nowhere"]
    assert "notification-policy" in ended.out


async def test_unregister_removes_ours_and_nothing_else(house: House) -> None:
    house.harbor.add_policy("team", "https://other.example.com/", name="other")
    assert (await webhook(house, "register")).code == 0
    assert changes(await webhook(house, "unregister", "--json")) == {"library": "removed", "team": "removed"}
    assert [each.body["name"] for each in house.harbor.webhooks.policies.values()] == ["other"]
    assert changes(await webhook(house, "unregister", "--json")) == {"library": "absent", "team": "absent"}


async def test_unregister_waits_for_deliveries_and_no_event_is_sent_meanwhile(house: House) -> None:
    house.harbor.webhooks.busy_seconds = 4.0
    async with receiver([202] * 9) as taker:
        assert (await webhook(house, "register", url=taker.url)).code == 0
        await push(house.harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
        ended = await webhook(house, "unregister", "--json", url=taker.url)
        assert ended.code == 0, ended.said
        assert changes(ended) == {"library": "removed", "team": "removed"}
        assert "waiting up to 60 s for the last deliveries in 1 project" in ended.err
    assert not house.harbor.webhooks.policies
    log = [row.method for row in house.harbor.faults.log if "/team/webhook/policies/" in row.path]
    assert log[0] == "PUT"
    assert log.count("DELETE") >= 2


async def test_only_projects_that_the_rules_name_are_touched(house: House) -> None:
    assert changes(await webhook(house, "register", "--json", images={"HARBOR/te*/**": "ACR/cache/{flat}"})) == {
        "team": "created"
    }
    ended = await webhook(
        house, "register", "--json", "--project", "team", images={"HARBOR/library/app": "ACR/cache/app"}
    )
    assert ended.code == 1
    assert json.loads(ended.out) == []


async def test_a_login_that_may_not_is_told_what_it_needs(house: House) -> None:
    ended = await called(house, "register", "--config", str(house.rules(EVERYTHING)))
    assert ended.code == 1
    assert "notification-policy" in ended.out
    assert "--user" in ended.out
    assert not house.harbor.webhooks.policies


@pytest.mark.parametrize(
    ("status", "says"), [(401, "expired"), (404, "no project 'team'"), (409, "run it again"), (400, "can reach")]
)
async def test_a_refusal_of_harbor_is_explained(house: House, status: int, says: str) -> None:
    house.harbor.faults.add(Fault(Answer(status, "REFUSED"), "POST", "/webhook/policies", times=None))
    ended = await webhook(house, "register", "--project", "team")
    assert ended.code == 1
    assert says in ended.out


async def test_a_wrong_password_of_another_user_is_told_as_this_users(house: House) -> None:
    house.harbor.faults.add(Fault(Answer(401, "UNAUTHORIZED"), "GET", "/webhook/policies", times=None))
    ended = await called(house, "register", "--user", "jane", "--config", str(house.rules(EVERYTHING)))
    assert ended.code == 1
    assert "the password of jane was refused" in ended.out
    assert "under auth" not in ended.out


async def test_a_registry_that_is_no_harbor_is_told_and_the_others_are_done(house: House) -> None:
    images = {"ACR/cache/app": "ACR/image-syncer/app", "HARBOR/team/app": "ACR/image-syncer/other"}
    ended = await webhook(house, "register", images=images)
    assert ended.code == 1
    assert "not a Harbor" in ended.out
    (policy,) = house.harbor.webhooks.of("team")
    assert policy.body["targets"][0]["address"].startswith(f"{URL}/127.0.0.1:")


async def test_a_delivery_that_failed_is_shown_with_its_reason_and_without_the_token(house: House) -> None:
    async with receiver([401] * 3) as taker:
        await webhook(house, "register", url=taker.url)
        await push(house.harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
        await house.harbor.deliveries_settled()
        ended = await webhook(house, "list", url=taker.url)
    assert ended.code == 0, ended.said
    assert "(401" in ended.out


async def test_a_sample_shows_that_the_webhook_is_there_and_causes_no_copy(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        url = f"{serving.url}/webhooks/harbor"
        ended = await called(house, "test", "--json", url=url)
        assert ended.code == 0, ended.said
        told = [(row["format"], row["status"], row["ok"]) for row in json.loads(ended.out)]
        assert told == [("Default", 200, True), ("CloudEvents", 200, True)]
        await serving.until("webhook taken", count=2)
        assert not any("queued" in line for line in serving.said("webhook taken"))
        wrong = await called(house, "test", url=f"{serving.url}/webhooks")
        assert wrong.code == 1
        assert "no webhook at this path" in wrong.out
        refused = await replicator(
            "webhook", "test", "--url", url, cwd=house.directory, settings={"REPLICATOR_WEBHOOK_TOKEN": "another"}
        )
        assert refused.code == 1
        assert "REPLICATOR_WEBHOOK_TOKEN" in refused.out


@pytest.mark.parametrize(
    ("status", "says"),
    [(200, "not a replicator's"), (307, "redirects to"), (503, "replicator serve"), (418, "no replicator answers")],
)
async def test_what_answers_in_the_webhooks_place_is_told(house: House, status: int, says: str) -> None:
    async with receiver([status] * 2) as taker:
        ended = await called(house, "test", url=taker.url)
    assert ended.code == 1
    assert says in ended.out


async def test_a_webhook_that_is_not_there_is_told(house: House) -> None:
    async with receiver() as taker:
        url = taker.url
    ended = await called(house, "test", url=url)
    assert ended.code == 1
    assert "can't connect" in ended.out


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "--url"),
        ("replicator.example.com/webhooks/harbor", "--url"),
        ("https://replicator.example.com", "has no path"),
        ("https://u:hidden@replicator.example.com/webhooks/harbor", "must not contain a user name"),
    ],
)
async def test_an_address_that_can_not_be_used_is_told(house: House, url: str | None, says: str) -> None:
    ended = await called(house, "test", url=url)
    assert ended.code == 2
    assert says in ended.err
    assert "hidden" not in ended.said
