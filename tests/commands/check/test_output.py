"""What of the rules `replicator check` looks at, what it prints, and that it changes nothing."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from rich.console import Console

from replicator.commands.check import show
from replicator.commands.check.findings import Finding, FindingState, summary
from replicator.errors import ErrorText
from tests.commands.check.asking import RULE, as_administrator, checked, failed
from tests.queue.servers import RedisServer
from tests.running import TOKEN, replicator
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.end_to_end.conftest import House
    from tests.standins.faults import Entry

TWO = {"HARBOR/library/**": "ACR/image-syncer/{name}", "HARBOR/team/**": "nowhere.invalid/x/{name}"}
PATIENT = "registry-vpc.cn-hangzhou.aliyuncs.com/image-syncer/team-platform-services-payments-api"
FOUND = [
    Finding("login", "harbor.example.com", FindingState.OK, "reachable, logged in"),
    Finding(
        "list", "harbor.example.com/team/**", FindingState.OK, "matches harbor.example.com/team/services/api:v1.2.3"
    ),
    Finding("policy", "harbor.example.com/team", FindingState.NOT_TRIED, "the login lacks notification-policy:list"),
    Finding("push", PATIENT, FindingState.FAILED, "for a push this can mean: the login may not push here; " * 3),
]


def with_nowhere(house: House) -> str:
    rules = house.rules(TWO)
    rules.write_text(rules.read_text().replace('"auth": {', '"auth": {"nowhere.invalid": {"anonymous": true},', 1))
    return str(rules)


async def test_only_what_is_meant_is_tried(pushed: House) -> None:
    await push(pushed.harbor.host, "team/app", "v1", image(), HARBOR_ADMIN)
    rules = pushed.directory / "rules.json"
    with_nowhere(pushed)
    assert "nowhere.invalid" in failed(await checked(pushed, rules, 1))["login"]
    pushed.harbor.faults.log.clear()
    lines = await checked(pushed, rules, 0, "--only", "library/**")
    assert not [line for line in lines if "team" in line["subject"] or "nowhere" in line["subject"]]
    assert not pushed.harbor.faults.log.count(path="team")
    named = {line["name"]: line["subject"] for line in lines}
    assert named["list"] == f"{pushed.harbor.host}/library/**"
    assert named["policy"] == f"{pushed.harbor.host}/library"


async def test_only_one_tag_is_looked_for_where_only_that_is_meant(pushed: House) -> None:
    await push(pushed.harbor.host, "library/app", "v2", image(), HARBOR_ROBOT)
    rules = pushed.rules(RULE)
    lines = await checked(pushed, rules, 0, "--only", "library/app:v1")
    assert {line["subject"] for line in lines if line["name"] == "pull"} == {f"{pushed.harbor.host}/library/app:v1"}
    assert "no image matches" in failed(await checked(pushed, rules, 1, "--only", "library/app:v9"))["list"]


async def test_a_pattern_that_no_rule_copies_from_is_a_mistake_of_use(pushed: House) -> None:
    ended = await replicator("check", "--config", pushed.rules(RULE), "--only", "absent/**", cwd=pushed.directory)
    assert (ended.code, "--only" in ended.err) == (2, True)


def changing(log: Iterable[Entry]) -> list[tuple[str, str]]:
    return [
        (entry.method, re.sub(r"uploads/.+", "uploads/…", entry.path))
        for entry in log
        if entry.method not in ("GET", "HEAD")
    ]


async def test_a_check_sends_nothing_that_changes_anything_but_the_upload_that_it_cancels(pushed: House) -> None:
    pushed.harbor.add_policy("library", "https://r.example.com/webhooks/harbor", auth_header=TOKEN)
    rules = as_administrator(pushed.rules(RULE))
    policies = {number: dict(policy.body) for number, policy in pushed.harbor.webhooks.policies.items()}
    with RedisServer(pushed.directory / "r") as server:
        async with Redis(unix_socket_path=str(server.socket)) as redis:
            await redis.set("replicator:seq", 1)
            before = set(pushed.directory.iterdir())
            await checked(pushed, rules, 0, REPLICATOR_REDIS_URL=server.url)
            assert set(pushed.directory.iterdir()) == before
            assert await redis.keys() == [b"replicator:seq"]
    assert changing(pushed.harbor.faults.log) == []
    uploads = "/v2/image-syncer/app/blobs/uploads/"
    assert changing(pushed.acr.faults.log) == [("POST", uploads), ("DELETE", f"{uploads}…")]
    assert {number: policy.body for number, policy in pushed.harbor.webhooks.policies.items()} == policies
    assert pushed.harbor.pulls == []
    assert pushed.harbor.deliveries == []


async def test_each_line_of_json_has_the_fields_that_are_documented(pushed: House) -> None:
    lines = await checked(pushed, pushed.rules(RULE), 0)
    assert lines
    for line in lines:
        assert list(line) == ["name", "subject", "state", "message", "what", "why", "do"]
        assert line["state"] in ("ok", "not tried")
        assert all(line[name] and isinstance(line[name], str) for name in ("name", "subject", "message"))
        assert line["what"] is line["why"] is line["do"] is None


def test_a_failed_check_has_what_why_and_do_and_one_message_of_them() -> None:
    finding = Finding("push", "r.example/a", FindingState.FAILED, ErrorText("PUT", "403", "ask").stored)
    parts = {"message": "PUT: 403; ask", "what": "PUT", "why": "403", "do": "ask"}
    assert finding.to_json() == {"name": "push", "subject": "r.example/a", "state": "failed"} | parts


def test_the_last_line_says_how_all_tests_ended() -> None:
    assert summary(FOUND[:2]) == "No test failed"
    assert summary(FOUND[:3]) == "No test failed; 1 of 3 not done"
    assert summary(FOUND) == f"1 of 4 tests failed: push {PATIENT}"
    assert summary([FOUND[-1]] * 7).endswith(", and 2 more")


def printed(width: int) -> list[str]:
    paper = io.StringIO()
    show(FOUND, Console(file=paper, width=width, force_terminal=True, color_system=None))
    return [line.rstrip() for line in paper.getvalue().splitlines()]


def test_a_narrow_terminal_shows_each_finding_by_itself_and_no_name_is_broken() -> None:
    assert printed(80) == [
        "✓ login: harbor.example.com",
        "    reachable, logged in",
        "✓ list: harbor.example.com/team/**",
        "    matches harbor.example.com/team/services/api:v1.2.3",
        "\N{EN DASH} policy: harbor.example.com/team",
        "    the login lacks notification-policy:list",
        f"✗ push: {PATIENT}",
        "    for a push this can mean: the login may not push here; for a push this can",
        "    mean: the login may not push here; for a push this can mean: the login may",
        "    not push here;",
    ]


def test_a_wide_terminal_shows_a_table() -> None:
    head, login, listed, policy, push, *rest = printed(200)
    assert head.split() == ["check", "subject", "result"]
    result = head.index("result")
    for line, mark in ((login, "✓"), (listed, "✓"), (policy, "\N{EN DASH}"), (push, "✗")):
        assert line.startswith(mark)
        assert line[result - 2 : result].isspace()
        assert not line[result].isspace()
    assert PATIENT in push
    assert all(len(line) <= 200 and line[:result].isspace() for line in rest)


@pytest.mark.parametrize("columns", ["80", "200"])
async def test_where_there_is_no_terminal_each_finding_is_one_line(pushed: House, columns: str) -> None:
    settings = {"REPLICATOR_WEBHOOK_TOKEN": TOKEN, "REPLICATOR_LISTEN": "127.0.0.1:0", "COLUMNS": columns}
    ended = await replicator("check", "--config", pushed.rules(RULE), cwd=pushed.directory, settings=settings)
    head, *rows = ended.out.splitlines()
    assert head.split() == ["check", "subject", "result"]
    assert rows
    assert all(row[0] in "✓✗\N{EN DASH}" for row in rows)


def test_foreign_words_write_no_commands_to_a_terminal() -> None:
    for width in (80, 200):
        paper = io.StringIO()
        hostile = Finding("list", "h/\x1b[2Ja", FindingState.FAILED, "said \x1b]0;x\x07[red]no[/red]\nmore")
        show([hostile], Console(file=paper, width=width, force_terminal=True, color_system=None))
        assert "\x1b" not in paper.getvalue()
        assert "[red]no[/red]" in paper.getvalue()
