"""What `replicator check` finds of Harbor's webhook policies, of their deliveries, and of the list of artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.commands.check.findings import Finding, FindingState, merged
from replicator.commands.check.webhook import Expected, judge_deliveries, judge_policies
from replicator.harbor.policy import EVENT_TYPES, Delivery, Policy, PolicyTarget
from tests.commands.check.asking import RULE, as_administrator, checked, failed, told
from tests.running import TOKEN
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT
from tests.standins.receiver import receiver

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

URL = "https://replicator.example.com/webhooks/harbor"
SECRET = "hidden-token"
SUBJECTS = st.from_regex(r"[ab]/[cd]{1,9}", fullmatch=True)


async def test_a_policy_that_is_right_is_told_to_be_so(pushed: House) -> None:
    pushed.harbor.add_policy("library", URL, auth_header=f"Bearer {TOKEN}")
    lines = await checked(pushed, as_administrator(pushed.rules(RULE)), 0, REPLICATOR_WEBHOOK_URL=URL)
    found = told(lines, "ok")
    assert "reports pushes" in found["policy"]
    assert found["deliveries"] == "none yet"


@pytest.mark.parametrize("end", ["", "/"])
async def test_an_old_policy_with_a_slash_at_the_end_of_its_url_is_told(pushed: House, end: str) -> None:
    pushed.harbor.add_policy("library", f"{URL}/", auth_header=f"Bearer {TOKEN}")
    lines = await checked(pushed, as_administrator(pushed.rules(RULE)), 0, REPLICATOR_WEBHOOK_URL=f"{URL}{end}")
    policy = told(lines, "ok")["policy"]
    assert "ends with a slash" in policy
    assert "register corrects it" in policy


@pytest.mark.parametrize("url", [URL, None])
async def test_a_project_without_a_policy_is_told_with_the_command_that_makes_it(
    pushed: House, url: str | None
) -> None:
    pushed.harbor.add_policy("library", "https://other.example.com/", name="other")
    settings = {"REPLICATOR_WEBHOOK_URL": url} if url else {}
    found = failed(await checked(pushed, as_administrator(pushed.rules(RULE)), 1, **settings))
    assert "replicator webhook register" in found["policy"]
    assert (url or "a path /webhooks/harbor") in found["policy"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"enabled": False}, "is disabled"),
        ({"event_types": ["PULL_ARTIFACT"]}, "PUSH_ARTIFACT"),
        ({"auth_header": ""}, "sends no auth header"),
        ({"auth_header": f"Bearer {SECRET}"}, "an auth header that is not REPLICATOR_WEBHOOK_TOKEN"),
        ({"address": "https://u:hidden-token@old.example.com/webhooks/harbor"}, "sends to https://old.example.com/"),
    ],
    ids=["disabled", "other events", "no token", "another token", "another address"],
)
async def test_a_policy_that_is_wrong_is_told_with_the_command_that_corrects_it(
    pushed: House, changes: dict[str, Any], says: str
) -> None:
    target = {name: value for name, value in changes.items() if name in ("auth_header", "address")}
    policy = pushed.harbor.add_policy(
        "library", **{"address": URL, "name": "replicator", "auth_header": TOKEN, **target}
    )
    policy.body |= {name: value for name, value in changes.items() if name not in target}
    lines = await checked(pushed, as_administrator(pushed.rules(RULE)), 1, REPLICATOR_WEBHOOK_URL=URL)
    message = failed(lines)["policy"]
    assert says in message
    assert "replicator webhook register corrects it" in message
    assert SECRET not in str(lines)


async def test_a_policy_that_sends_a_former_token_works_and_is_told_to_be_renewed(pushed: House) -> None:
    pushed.harbor.add_policy("library", URL, auth_header="Bearer before")
    settings = {"REPLICATOR_WEBHOOK_URL": URL, "REPLICATOR_WEBHOOK_FORMER_TOKENS": "older before"}
    found = told(await checked(pushed, as_administrator(pushed.rules(RULE)), 0, **settings), "ok")
    assert "with an old token: replicator webhook register sets the new token" in found["policy"]


async def test_without_an_address_of_its_own_any_that_ends_like_the_webhooks_will_do(pushed: House) -> None:
    pushed.harbor.add_policy("library", "https://any.example.com/hooks/webhooks/harbor", auth_header=TOKEN)
    lines = await checked(pushed, as_administrator(pushed.rules(RULE)), 0)
    assert "reports pushes" in told(lines, "ok")["policy"]


async def test_webhooks_that_are_switched_off_in_harbor_are_told_to_any_login(pushed: House) -> None:
    found = told(await checked(pushed, pushed.rules(RULE), 0), "ok")
    assert found["harbor"] == f"version {pushed.harbor.api.version}, sends events"
    pushed.harbor.api.notifies = False
    message = failed(await checked(pushed, pushed.rules(RULE), 1))["harbor"]
    assert "switched off" in message
    assert "Webhooks enabled" in message


async def test_a_user_is_told_to_take_a_robot_account_which_is_no_failure(pushed: House) -> None:
    pushed.harbor.add_policy("library", URL, auth_header=TOKEN)
    rules = as_administrator(pushed.rules(RULE))
    assert "use a robot account" in told(await checked(pushed, rules, 0), "ok")["harbor"]
    pushed.harbor.faults.add(Fault(Answer(500), path="/users/current", times=None))
    found = told(await checked(pushed, rules, 0), "ok")
    assert found["harbor"] == f"version {pushed.harbor.api.version}, sends events"


async def test_deliveries_that_fail_are_told_with_harbors_reason_and_without_the_token(pushed: House) -> None:
    rules = as_administrator(pushed.rules(RULE))
    async with receiver([503] * 3) as taker:
        pushed.harbor.add_policy("library", taker.url, auth_header=f"Bearer {TOKEN}")
        await push(pushed.harbor.host, "library/app", "v2", image(), HARBOR_ROBOT)
        await pushed.harbor.deliveries_settled()
        found = failed(await checked(pushed, rules, 1, REPLICATOR_WEBHOOK_URL=taker.url))
        assert "503" in found["deliveries"]
        assert "replicator webhook test" in found["deliveries"]
        await push(pushed.harbor.host, "library/app", "v3", image(), HARBOR_ROBOT)
        await pushed.harbor.deliveries_settled()
        lines = await checked(pushed, rules, 0, REPLICATOR_WEBHOOK_URL=taker.url)
    assert "the last one arrived; 3 of the last 4 failed" in told(lines, "ok")["deliveries"]


async def test_a_robot_that_may_not_list_policies_is_no_failure_and_the_permission_is_named(pushed: House) -> None:
    lines = await checked(pushed, pushed.rules(RULE), 0)
    assert "notification-policy:list" in told(lines, "not tried")["policy"]
    pushed.harbor.add_policy("library", URL, auth_header=TOKEN)
    pushed.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), path="/executions", times=None))
    lines = await checked(pushed, as_administrator(pushed.rules(RULE)), 0)
    assert "notification-policy:read" in told(lines, "not tried")["deliveries"]


async def test_each_project_that_a_pattern_means_is_looked_at(pushed: House) -> None:
    await push(pushed.harbor.host, "team/app", "v1", image(), HARBOR_ADMIN)
    pushed.harbor.add_policy("team", URL, auth_header=TOKEN)
    rules = as_administrator(pushed.rules({"HARBOR/**": "ACR/image-syncer/{flat}"}))
    lines = await checked(pushed, rules, 1, REPLICATOR_WEBHOOK_URL=URL)
    host = pushed.harbor.host
    assert [(line["subject"], line["state"]) for line in lines if line["name"] == "policy"] == [
        (f"{host}/library", "failed"),
        (f"{host}/team", "ok"),
    ]


async def test_what_many_projects_have_in_common_is_told_once(pushed: House) -> None:
    for number in range(6):
        pushed.harbor.add_project(f"p{number}")
    lines = await checked(pushed, pushed.rules({"HARBOR/**": "ACR/image-syncer/{flat}"}), 0)
    (line,) = [line for line in lines if line["name"] == "policy"]
    assert (line["subject"], line["state"]) == (pushed.harbor.host, "not tried")
    assert line["message"].endswith("(in library, p0, p1, p2, p3 and 3 more)")


@given(st.lists(st.builds(Finding, st.just("policy"), SUBJECTS, st.sampled_from(FindingState), st.sampled_from("xy"))))
def test_what_is_told_once_leaves_out_nothing_that_failed_and_no_registry(found: list[Finding]) -> None:
    lines = merged(found)
    untried = FindingState.NOT_TRIED
    assert [each for each in lines if each.state is not untried] == [
        each for each in found if each.state is not untried
    ]
    shown = [(each.subject.partition("/")[0], each.message[0]) for each in lines if each.state is untried]
    assert len(shown) == len(set(shown))
    assert set(shown) == {(each.subject.partition("/")[0], each.message) for each in found if each.state is untried}


async def test_a_source_that_is_no_harbor_is_told_to_have_no_webhook_and_no_list_of_artifacts(pushed: House) -> None:
    await push(pushed.behind_acr, "cache/app", "v1", image(), ("", ""))
    lines = await checked(pushed, pushed.rules({"ACR/cache/app": "ACR/image-syncer/app"}), 0)
    found = told(lines, "not tried")
    assert "no Harbor" in found["policy"]
    assert "no Harbor" in found["artifacts"]


async def test_the_list_that_a_backfill_will_use_is_told(pushed: House) -> None:
    lines = await checked(pushed, pushed.rules(RULE), 0)
    assert "listed for the whole project" in told(lines, "ok")["artifacts"]
    lines = await checked(pushed, pushed.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), 0)
    assert "listed per repository" in told(lines, "ok")["artifacts"]
    anonymous = pushed.rules(RULE, auth={**pushed.auth(), pushed.harbor.host: {"anonymous": True, "insecure": True}})
    lines = await checked(pushed, anonymous, 0)
    assert "with a login, Harbor 2.12 and later can list a whole project" in told(lines, "ok")["artifacts"]
    pushed.harbor.api.lists_projects_artifacts = False
    lines = await checked(pushed, pushed.rules(RULE), 0)
    assert "2.12" in told(lines, "ok")["artifacts"]


async def test_a_login_that_may_not_list_artifacts_is_no_failure_and_the_permission_is_named(pushed: House) -> None:
    pushed.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), path="/artifacts$", times=None))
    for source in ("library/**", "library/app"):
        lines = await checked(pushed, pushed.rules({f"HARBOR/{source}": "ACR/image-syncer/{name}"}), 0)
        message = told(lines, "not tried")["artifacts"]
        assert "artifact:list" in message
        # That one alone: what else is needed has been used already.
        assert message.count(":list") == 1


def policy(**changes: Any) -> Policy:
    target = {"address": URL, "auth_header": TOKEN, **changes.pop("target", {})}
    given: dict[str, Any] = {"enabled": True, "event_types": EVENT_TYPES, **changes}
    return Policy(1, given.pop("name", "any"), "", targets=(PolicyTarget(**target),), **given)


def test_the_best_of_several_policies_counts_and_that_there_are_several_is_told() -> None:
    state, message, found = judge_policies([policy(enabled=False), policy(name="good")], Expected(URL, TOKEN))
    assert (state, found) == (FindingState.OK, policy(name="good"))
    assert "1 more" in message


def test_a_policy_without_ends_of_scans_is_no_failure_and_the_use_of_them_is_told() -> None:
    state, message, _ = judge_policies([policy(event_types=("PUSH_ARTIFACT",))], Expected(URL, TOKEN))
    assert state is FindingState.OK
    assert "with the event Scanning finished (SCANNING_COMPLETED), a copy that waits for a scan starts" in message
    reversed_types = policy(event_types=("SCANNING_COMPLETED", "PUSH_ARTIFACT"))
    assert "Scanning" not in judge_policies([reversed_types], Expected(URL, TOKEN))[1]


def test_a_policy_for_anyone_needs_no_auth_header() -> None:
    open_policy = policy(target={"auth_header": ""})
    assert judge_policies([open_policy], Expected(URL, None, anonymous=True))[0] is FindingState.OK
    assert judge_policies([open_policy], Expected(URL, None))[0] is FindingState.FAILED


@pytest.mark.parametrize("form", ["/", "?registry="])
def test_a_policy_whose_address_names_another_harbor_is_told(form: str) -> None:
    expected = Expected(URL, TOKEN, registry="harbor.example.com")
    state, message, _ = judge_policies([policy(target={"address": f"{URL}{form}other.example.com"})], expected)
    assert state is FindingState.FAILED
    assert "sends 'other.example.com' as the Harbor's name" in message
    assert judge_policies([policy(target={"address": f"{URL}/HARBOR.example.com:443"})], expected)[0] is FindingState.OK


def test_a_policy_whose_address_names_its_harbor_in_the_older_form_works_and_is_told_to_be_corrected() -> None:
    expected = Expected(None, TOKEN, registry="harbor.example.com")
    for form, is_older in (("?registry=", True), ("/", False)):
        state, message, _ = judge_policies([policy(target={"address": f"{URL}{form}harbor.example.com"})], expected)
        assert state is FindingState.OK
        assert ("replicator webhook register corrects it" in message) == is_older


async def test_a_check_knows_the_harbor_that_an_address_must_name(pushed: House) -> None:
    rules = as_administrator(pushed.rules(RULE))
    made = pushed.harbor.add_policy("library", f"{URL}/{pushed.harbor.host}", auth_header=TOKEN)
    assert "reports pushes" in told(await checked(pushed, rules, 0, REPLICATOR_WEBHOOK_URL=URL), "ok")["policy"]
    made.body["targets"][0]["address"] = f"{URL}/other.example.com"
    found = failed(await checked(pushed, rules, 1, REPLICATOR_WEBHOOK_URL=URL))
    assert "sends 'other.example.com' as the Harbor's name" in found["policy"]


def test_a_policy_that_notifies_in_another_way_is_told() -> None:
    state, message, _ = judge_policies([policy(target={"type": "slack"})], Expected(URL, TOKEN))
    assert (state, "'slack' instead of http" in message) == (FindingState.FAILED, True)


TARGETS = st.builds(
    PolicyTarget,
    st.sampled_from([URL, "https://b.example.com/webhooks/harbor/", "http://[", "", "x"]) | st.text(),
    st.sampled_from(["", TOKEN, f"Bearer {TOKEN}", f"Bearer {SECRET}"]),
    type=st.sampled_from(["http", "slack"]),
)
POLICIES = st.builds(
    Policy,
    st.integers(0),
    st.sampled_from(["replicator", "other"]) | st.text(),
    st.text(),
    enabled=st.booleans(),
    event_types=st.sampled_from([(), ("PUSH_ARTIFACT",), ("PULL_ARTIFACT", "PUSH_ARTIFACT")]),
    targets=st.lists(TARGETS, max_size=3).map(tuple),
)


@given(st.lists(POLICIES, max_size=4), st.sampled_from([URL, None]), st.sampled_from([TOKEN, None]), st.booleans())
def test_only_a_policy_that_gets_pushes_through_to_the_webhook_is_right(
    policies: list[Policy], url: str | None, token: str | None, anonymous: bool
) -> None:
    state, message, found = judge_policies(policies, Expected(url, token, anonymous))
    assert TOKEN not in message
    assert SECRET not in message
    if state is FindingState.OK:
        assert found is not None
        assert found.enabled
        assert "PUSH_ARTIFACT" in found.event_types
        assert any(
            target.type == "http"
            and (target.auth_header.removeprefix("Bearer ") == token if token else target.auth_header or anonymous)
            for target in found.targets
        )
    else:
        assert "replicator webhook register" in message


DELIVERIES = st.builds(
    Delivery, st.sampled_from(["Success", "Error", "Stopped", "Running", "Pending", ""]), st.text(), st.text()
)


@given(st.none() | st.lists(DELIVERIES, max_size=5))
def test_deliveries_fail_when_the_last_one_that_ended_did(deliveries: list[Delivery] | None) -> None:
    state, message = judge_deliveries(deliveries)
    ended = [each.status for each in deliveries or () if each.status in ("Success", "Error", "Stopped")]
    assert (state is FindingState.FAILED) == (bool(ended) and ended[0] != "Success")
    assert (state is FindingState.NOT_TRIED) == (deliveries is None)
    assert message
