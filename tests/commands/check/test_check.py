"""What `replicator check` finds before a run does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.commands.check.asking import RULE, checked, failed, told
from tests.queue.servers import RedisServer
from tests.running import replicator
from tests.standins.faults import Answer, Fault, Headers
from tests.standins.images import image, push
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


async def test_where_all_is_well_nothing_fails_and_nothing_is_left_behind(pushed: House) -> None:
    lines = await checked(pushed, pushed.rules(RULE), 0)
    names = {"login", "list", "pull", "artifacts", "push", "queue", "webhook", "listen", "harbor", "edition", "quota"}
    assert set(told(lines, "ok")) == names
    assert told(lines, "ok")["edition"] == "ACR, Personal Edition, recognized by its token challenge"
    # The robot account has all that a copy needs, and nothing more.
    assert {line["name"] for line in lines} - names == set(told(lines, "not tried")) == {"policy", "public"}
    assert pushed.harbor.pulls == []
    assert not (pushed.directory / "state").exists()
    asked = [(entry.method, entry.status) for entry in pushed.acr.faults.log if "/blobs/uploads/" in entry.path]
    assert asked[-2:] == [("POST", 202), ("DELETE", 204)]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{pushed.behind_acr}/v2/image-syncer/app/tags/list") as answer:
            assert answer.status == 404
        async with session.get(f"http://{pushed.behind_acr}/v2/_catalog") as answer:
            assert (await answer.json())["repositories"] in ([], None)


@pytest.mark.parametrize(
    ("public", "state", "code"), [(None, "warning", 0), ("allow", "ok", 0), ("refuse", "failed", 1)]
)
async def test_a_private_image_that_anyone_may_pull_at_its_destination_is_told(
    pushed: House, public: str | None, state: str, code: int
) -> None:
    for host, name in ((pushed.harbor.host, "team/app"), (pushed.behind_acr, "image-syncer/app")):
        await push(host, name, "v1", image(), HARBOR_ROBOT)
    pushed.acr.public = {"image-syncer/app"}
    keys = {"public": public} if public else {}
    rules = pushed.rules({"HARBOR/team/**": {"to": "ACR/image-syncer/{name}", **keys}})
    message = told(await checked(pushed, rules, code), state)["public"]
    assert f"{pushed.harbor.host}/team/app is private, and anyone may pull it here" in message
    assert ("set the type (仓库类型) of the repository app to private" in message) is (public != "allow")
    pushed.acr.public = {"image-syncer/other"}
    assert "not public" in told(await checked(pushed, rules, 0), "ok")["public"]


@pytest.mark.parametrize("secret", [HARBOR_ROBOT[1], ACR_USER[1]])
async def test_a_wrong_password_is_told_at_each_end(pushed: House, secret: str) -> None:
    rules = pushed.rules({"HARBOR/library/**": "ACR/image-syncer/{flat}"})
    rules.write_text(rules.read_text().replace(secret, "wrong"))
    lines = await checked(pushed, rules, 1)
    assert "check the username and password" in failed(lines)["login"]
    # Collisions are found in lists, which Harbor did not give.
    state = "not tried" if secret == HARBOR_ROBOT[1] else "ok"
    assert "collision" in told(lines, state)


async def test_a_push_that_would_be_denied_is_told_with_what_it_can_mean(pushed: House) -> None:
    rules = pushed.rules({"HARBOR/library/**": "ACR/manual/{name}"})
    assert "Automatically Create Repository" in failed(await checked(pushed, rules, 1))["push"]


async def test_a_project_that_is_not_there_comes_before_the_login_that_is_good(pushed: House) -> None:
    told = failed(await checked(pushed, pushed.rules({"HARBOR/taem/**": "ACR/image-syncer/{name}"}), 1))["list"]
    assert "there is no project 'taem', or this account may not see it; " in told
    assert "repository:list" in told
    assert "check the username" not in told


async def test_a_rule_that_matches_nothing_is_told(pushed: House) -> None:
    rules = pushed.rules({"HARBOR/library/absent*": "ACR/image-syncer/{name}"})
    assert "no image matches" in failed(await checked(pushed, rules, 1))["list"]


async def test_a_project_without_a_repository_is_no_mistake(pushed: House) -> None:
    lines = await checked(pushed, pushed.rules({**RULE, "HARBOR/team/**": "ACR/image-syncer/{flat}"}), 0)
    assert not failed(lines)
    assert "project team has no repository yet" in " ".join(line["message"] for line in lines if line["name"] == "list")


async def test_a_host_that_refuses_connections_is_told(pushed: House) -> None:
    rules = pushed.rules(RULE)
    rules.write_text(rules.read_text().replace(pushed.harbor.host, "127.0.0.1:1"))
    assert "can't connect to 127.0.0.1:1" in failed(await checked(pushed, rules, 1))["login"]


async def test_a_clock_that_is_wrong_is_told(pushed: House) -> None:
    skewed = Headers({"Date": "Thu, 01 Jan 2015 00:00:00 GMT"})
    pushed.harbor.faults.add(Fault(skewed, path="/v2/$", times=None))
    assert "synchronize both by NTP" in failed(await checked(pushed, pushed.rules(RULE), 1))["clock"]


async def test_a_redis_that_is_away_or_evicts_is_told(pushed: House) -> None:
    url = f"unix://{pushed.directory}/r/redis.sock"
    lines = await checked(pushed, pushed.rules(RULE), 1, REPLICATOR_REDIS_URL=url)
    assert "REPLICATOR_REDIS_URL" in failed(lines)["redis"]
    with RedisServer(pushed.directory / "r", "--maxmemory-policy", "allkeys-lru") as server:
        lines = await checked(pushed, pushed.rules(RULE), 1, REPLICATOR_REDIS_URL=server.url)
    assert "maxmemory-policy noeviction" in failed(lines)["redis settings"]


async def test_a_webhook_without_a_token_is_told(pushed: House) -> None:
    lines = await checked(pushed, pushed.rules(RULE), 1, REPLICATOR_WEBHOOK_TOKEN="")
    assert "REPLICATOR_WEBHOOK_TOKEN" in failed(lines)["webhook"]


async def test_a_list_that_the_login_may_not_read_is_told_with_what_is_needed(pushed: House) -> None:
    pushed.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), path="/repositories$", times=None))
    found = failed(await checked(pushed, pushed.rules(RULE), 1))
    assert "repository:list" in found["list"]


async def test_a_name_that_is_unknown_is_told(pushed: House) -> None:
    rules = pushed.rules(RULE)
    rules.write_text(rules.read_text().replace(pushed.harbor.host, "absent.invalid:443"))
    told = failed(await checked(pushed, rules, 1))["login"]
    assert "the name absent.invalid can't be resolved" in told
    assert "check the spelling, and the DNS of this machine" in told


async def test_wrong_rules_are_a_mistake_of_use(house: House) -> None:
    rules = house.rules({"HARBOR/library/**": 5})
    ended = await replicator("check", "--config", rules, cwd=house.directory)
    assert (ended.code, "images" in ended.said) == (2, True)


async def test_a_destination_is_tried_though_the_source_can_not_be_reached(pushed: House) -> None:
    rules = pushed.rules(RULE)
    rules.write_text(rules.read_text().replace(pushed.harbor.host, "127.0.0.1:1"))
    lines = await checked(pushed, rules, 1)
    assert ("login", pushed.acr.host, "ok") in {(line["name"], line["subject"], line["state"]) for line in lines}


async def test_two_sources_of_one_tag_are_told_as_the_backfill_refuses_them(pushed: House) -> None:
    for seed, name in enumerate(("library/a/b-c", "library/a-b/c")):
        await push(pushed.behind_harbor, name, "v1", image(seed))
    rules = pushed.rules({"HARBOR/library/a**": "ACR/image-syncer/{flat}"})
    text = failed(await checked(pushed, rules, 1))["collision"]
    assert all(f"{pushed.harbor.host}/library/{name}:v1" in text for name in ("a/b-c", "a-b/c"))
    rules = pushed.rules({"HARBOR/library/a/*": "ACR/image-syncer/{flat}"})
    assert "collision" in told(await checked(pushed, rules, 0), "ok")


async def test_names_and_quotas_of_acr_are_told_from_the_list_before_the_first_push(pushed: House) -> None:
    long = "x" * 65
    await push(pushed.behind_harbor, f"library/{long}", "v1", image())
    for number in range(3):
        pushed.harbor.add_project(f"team{number}", public=True)
        await push(pushed.behind_harbor, f"team{number}/app", "v1", image())
    rules = pushed.rules({"HARBOR/library/*": "ACR/image-syncer/{name}", "HARBOR/*/app": "ACR/{project}/{name}"})
    lines = await checked(pushed, rules, 1)
    # The edition is known by the challenge alone.
    assert f"{'x' * 25}… has 65 characters, and the Personal Edition takes 2 to 64" in failed(lines)["name"]
    assert "need 5 namespaces" in told(lines, "warning")["quota"]
    rules = pushed.rules({"HARBOR/library/app": "ACR/image-syncer/{name}", "HARBOR/team0/*": "ACR/image-syncer/{flat}"})
    summary = "the rules need 1 of 3 namespaces and up to 2 of 300 repositories"
    assert told(await checked(pushed, rules, 0), "ok")["quota"] == summary
