"""Names that ACR can't hold and quotas of its Personal Edition, told by a listing before anything is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replicator.aliyun.acr import EDITIONS
from replicator.errors import ErrorClass
from replicator.replication.compare import Checker
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import CopyFailed
from tests.replication.conftest import tags_of
from tests.replication.test_backfill import dry_run
from tests.replication.test_labels import handled, pushed
from tests.standins.artifacts import chart
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.replication.listing import Batch, Found
    from tests.replication.conftest import House

ACR = "registry.cn-beijing.aliyuncs.com"
LONG = "x" * 65
OWN_DOMAIN = "registry.aliyuncs.com:cn-beijing:china:cri-0123456789abcdef"


def told(batches: Iterable[Batch]) -> list[str]:
    return [warning for batch in batches for warning in batch.warnings]


async def test_each_tag_of_a_repository_that_acr_can_t_hold_is_reported_and_the_others_go_on(house: House) -> None:
    put = await house.put(["team/app:v1", f"team/{LONG}:v1", f"team/{LONG}:v2"])
    batches = await house.listed({"HARBOR/team/*": f"{ACR}/mirror/{{name}}"})
    assert tags_of(batches) == {"team/app:v1": put["team/app:v1"]}
    refused = [each for batch in batches for each in batch.refused]
    assert {each.asked.request.source.tag for each in refused} == {"v1", "v2"}
    assert all("65 characters, and the Personal Edition takes 2 to 64" in each.error for each in refused)
    assert told(batches) == []


async def test_a_doubtful_name_is_a_warning_and_is_copied(house: House) -> None:
    put = await house.put(["team/a:v1"])
    batches = await house.listed({"HARBOR/team/*": f"{ACR}/mirror/{{name}}"})
    assert tags_of(batches) == put
    (warning,) = told(batches)
    assert warning.startswith(f"{ACR}/mirror/a: ACR may refuse the repository a: ")


async def test_the_projects_of_a_harbor_can_be_more_than_the_namespaces_of_an_account(house: House) -> None:
    for number in range(4):
        house.harbor.add_project(f"team{number}")
    await house.put([f"team{number}/app:v1" for number in range(3)])
    rules: dict[str, Any] = {"HARBOR/*/*": f"{ACR}/{{project}}/{{name}}"}
    assert told(await house.listed(rules)) == []
    await house.put(["team3/app:v1"])
    (warning,) = told(await house.listed(rules))
    assert f"need 4 namespaces at {ACR} (team0, team1, team2, team3), and an account has 3" in warning
    # The rules alone tell that; it is said when they are loaded.
    fixed = {f"HARBOR/team{number}/*": f"{ACR}/{{project}}/{{name}}" for number in range(4)}
    assert told(await house.listed(fixed)) == []
    assert "need 4 namespaces" in str(house.rules(fixed).warnings)


async def test_repositories_are_counted_once_over_all_rules_and_only_those_that_get_an_image(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.rules.credentials.PERSONAL_REPOSITORIES", 3)
    await house.put([*(f"team/app{number}:v1" for number in range(3)), "library/app3:v1"])
    rules: dict[str, Any] = {
        "HARBOR/team/*": f"{ACR}/mirror/{{name}}",
        "HARBOR/team/app1:v1": f"{ACR}/mirror/app1",
        "HARBOR/library/*:v2*": f"{ACR}/mirror/{{name}}",
    }
    assert told(await house.listed(rules)) == []
    # Whether a tag passes is known only when all are listed.
    await house.put(["library/app3:v2"])
    batches = await house.listed(rules)
    assert told(batches[:1]) == []
    (warning,) = told(batches[-1:])
    assert f"need at least 4 repositories at {ACR}, and an account has 3" in warning


async def test_repositories_of_other_types_are_not_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.rules.credentials.PERSONAL_REPOSITORIES", 1)
    for name, root in {"app": image(1), "chart": chart(1)}.items():
        await push(house.harbor.host, f"team/{name}", "v1", root, HARBOR_ROBOT)
    rules = {"HARBOR/team/*": {"to": f"{ACR}/mirror/{{name}}", "types": "image"}}
    assert told(await house.listed(rules)) == []
    # Nor where the rules write the tags out.
    named = {f"HARBOR/team/{name}:v1": {"to": f"{ACR}/mirror/{name}", "types": "image"} for name in ("app", "chart")}
    assert "need" not in str(house.rules(named).warnings)
    rules["HARBOR/team/chart"] = {"to": f"{ACR}/mirror/chart", "types": "chart"}
    (warning,) = told(await house.listed(rules))
    assert "need at least 2 repositories" in warning


async def test_namespaces_count_only_if_one_of_their_repositories_gets_an_image(house: House) -> None:
    for number in range(4):
        house.harbor.add_project(f"team{number}")
    await house.put([*(f"team{number}/app:v1" for number in range(4)), "team0/app:v2"])
    rules: dict[str, Any] = {"HARBOR/*/*:v2*": f"{ACR}/{{project}}/{{name}}"}
    assert told(await house.listed(rules)) == []
    await house.put([f"team{number}/app:v2" for number in range(1, 4)])
    (warning,) = told(await house.listed(rules))
    assert f"need 4 namespaces at {ACR} (team0, team1, team2, team3)" in warning


async def test_a_dry_run_tells_of_a_name_when_the_comparison_has_told_the_edition(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.put(["team/app:v1"])
    original = Checker.check

    async def check(checker: Checker, found: Found) -> Any:
        checked = await original(checker, found)
        EDITIONS.learn(house.behind, OWN_DOMAIN)
        return checked

    monkeypatch.setattr(Checker, "check", check)
    _, (row,) = await dry_run(house, {"HARBOR/team/app": f"BEHIND/copies/{'r' * 121}"}, BackfillOptions())
    assert row.outcome is RowOutcome.FAILED
    assert "121 characters, and the Enterprise Edition takes 2 to 120" in str(row.error)


async def test_a_copy_that_was_queued_before_the_edition_was_known_fails_for_good_and_asks_nobody(house: House) -> None:
    rules = house.rules({"HARBOR/team/app": f"BEHIND/copies/{'r' * 121}"})
    request = pushed(house, rules, "team/app:v1")
    assert request.problem is None
    EDITIONS.learn(house.behind, OWN_DOMAIN)
    house.harbor.faults.log.clear()
    with pytest.raises(CopyFailed, match="takes 2 to 120") as caught:
        await handled(rules, request)
    assert caught.value.error_class is ErrorClass.PERMANENT
    assert len(house.harbor.faults.log) == 0
