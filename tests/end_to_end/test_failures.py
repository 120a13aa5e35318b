"""``replicator failures``: dead letters are listed, retried and dropped, with and without a running server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.running import TOKEN, Ended, Serving, replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

# The namespace "manual" creates no repository by itself: a push to a new one is denied.
DENIED = {"HARBOR/library/**": "ACR/manual/{name}"}


def destination(house: House, tag: str = "v1") -> str:
    return f"{house.acr.host}/manual/app:{tag}"


async def give_up(house: House, serving: Serving, *tags: str) -> None:
    """Push tags whose copies ACR denies."""
    house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
    for number, tag in enumerate(tags):
        await push(house.harbor.host, "library/app", tag, image(number + 1), HARBOR_ROBOT)
    await serving.until("job dead", count=len(tags))


async def ask(house: House, *arguments: str) -> Ended:
    ended = await replicator("failures", *arguments, cwd=house.directory)
    assert "Traceback" not in ended.said
    return ended


async def listed(house: House) -> list[dict[str, Any]]:
    ended = await ask(house, "--json")
    assert ended.code == 0, ended.said
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


async def test_what_acr_denies_is_listed_with_its_reason_and_copied_by_a_retry_once_the_cause_is_gone(
    house: House,
) -> None:
    async with running("serve", "--config", house.rules(DENIED), cwd=house.directory) as serving:
        began = datetime.now(UTC)
        await give_up(house, serving, "v1")
        (failure,) = await listed(house)
        assert set(failure) == {
            "source",
            "destination",
            "rule",
            "lane",
            "error_class",
            "message",
            "what",
            "why",
            "do",
            "tries",
            "first",
            "last",
            "cause",
        }
        assert failure["source"] == f"{house.harbor.host}/library/app:v1"
        assert failure["destination"] == destination(house)
        assert failure["rule"] == f"{house.harbor.host}/library/**"
        assert (failure["lane"], failure["tries"]) == ("events", 1)
        assert failure["error_class"] in {"permanent", "credentials"}
        assert "Automatically Create Repository" in failure["message"]
        first, last = (datetime.fromisoformat(failure[name]) for name in ("first", "last"))
        assert began.timestamp() - 1 <= first.timestamp() <= last.timestamp() <= datetime.now(UTC).timestamp() + 1
        assert failure["first"].endswith("Z")

        table = await ask(house)
        assert table.code == 0
        for name in ("source", "destination", "error_class", "what", "why", "do"):
            assert failure[name] in table.out
        assert ACR_USER[1] not in table.said

        house.acr.create_repository("manual/app")
        retried = await ask(house, "retry", destination(house))
        assert (retried.code, retried.out) == (0, f"queued again: {destination(house)}\n"), retried.said
        await serving.until("copy done", destination=destination(house), result="copied")
        assert await listed(house) == []
        assert "no dead letters" in (await ask(house)).out
    await verify_tree(house.behind_acr, "manual/app", "v1", image(1))


async def test_a_new_push_clears_the_failure(house: House) -> None:
    async with running("serve", "--config", house.rules(DENIED), cwd=house.directory) as serving:
        await give_up(house, serving, "v1")
        house.acr.create_repository("manual/app")
        await push(house.harbor.host, "library/app", "v1", image(9), HARBOR_ROBOT)
        await serving.until("copy done", destination=destination(house), result="copied")
        assert await listed(house) == []
    await verify_tree(house.behind_acr, "manual/app", "v1", image(9))


async def test_failures_are_forgotten_by_name_or_all_and_unknown_names_are_told(house: House) -> None:
    async with running("serve", "--config", house.rules(DENIED), cwd=house.directory) as serving:
        await give_up(house, serving, "v1", "v2", "v3")
        assert len(await listed(house)) == 3
        dropped = await ask(house, "drop", destination(house, "v1"), destination(house, "absent"))
        assert dropped.code == 1
        assert dropped.out == f"dropped: {destination(house, 'v1')}\n"
        assert dropped.err == f"no dead letter with this destination: {destination(house, 'absent')}\n"
        assert {row["destination"] for row in await listed(house)} == {
            destination(house, "v2"),
            destination(house, "v3"),
        }
        retried = await ask(house, "retry", destination(house, "v1"))
        assert (retried.code, retried.out) == (1, "")
        assert destination(house, "v1") in retried.err
        dropped = await ask(house, "drop", "--all")
        assert (dropped.code, dropped.out.count("dropped: ")) == (0, 2)
        assert (await ask(house, "drop", "--all")).code == 0
        assert await listed(house) == []


async def test_without_a_running_replicator_the_queue_is_started_for_the_question(house: House) -> None:
    rules = house.rules(DENIED)
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        await give_up(house, serving, "v1", "v2")
        assert await serving.stop() == 0
    found = await listed(house)
    assert sorted(row["destination"] for row in found) == [destination(house, "v1"), destination(house, "v2")]
    assert [row["last"] for row in found] == sorted(row["last"] for row in found)
    house.acr.create_repository("manual/app")
    retried = await ask(house, "retry", "--all")
    assert (retried.code, retried.out.count("queued again: ")) == (0, 2)
    assert "no worker runs:" in retried.err
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        await serving.until("copy done", count=2, result="copied")
    assert await listed(house) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry"], "--all"),
        (["drop"], "--all"),
        (["drop", "--all", "r.example/a/b:v1"], "--all"),
        (["retry", "no reference"], "REF"),
        (["--json", "drop", "--all"], "--json"),
        (["nonsense"], "nonsense"),
        (["--state-dir", "absent"], "absent"),
        (["--state-dir", "absent", "retry", "--all"], "absent"),
        (["drop", "--all", "--redis-url", "http://h"], "redis://"),
    ],
)
async def test_what_is_wrong_with_the_command_line_is_told(tmp_path: Path, arguments: list[str], says: str) -> None:
    ended = await replicator("failures", *arguments, cwd=tmp_path)
    assert ended.code == 2, ended.said
    assert says in ended.said
    assert "Traceback" not in ended.said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["failures"], ["failures", "retry", "--all"], ["status"]])
async def test_a_queue_that_is_away_is_told_by_its_address(tmp_path: Path, arguments: list[str]) -> None:
    settings = {"REPLICATOR_REDIS_URL": f"unix://{tmp_path}/absent.sock"}
    ended = await replicator(*arguments, cwd=tmp_path, settings=settings)
    assert ended.code == 1, ended.said
    assert "absent.sock can't accept or hand out work" in ended.err
    assert "Traceback" not in ended.said
