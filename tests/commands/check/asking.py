"""`replicator check` as the tests run it, and what they look for in its answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.running import TOKEN, replicator
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

RULE = {"HARBOR/library/**": "ACR/image-syncer/{name}"}
SECRETS = (HARBOR_ROBOT[1], HARBOR_ADMIN[1], ACR_USER[1], TOKEN)


async def checked(house: House, rules: Path, code: int, *arguments: str, **settings: str) -> list[dict[str, Any]]:
    """Run it, and expect an exit code; return its lines. No secret is in what it says."""
    settings = {"REPLICATOR_WEBHOOK_TOKEN": TOKEN, "REPLICATOR_LISTEN": "127.0.0.1:0", **settings}
    ended = await replicator("check", "--json", "--config", rules, *arguments, cwd=house.directory, settings=settings)
    assert ended.code == code, ended.said
    for secret in SECRETS:
        assert secret not in ended.said
    assert "Traceback" not in ended.said
    lines: list[dict[str, Any]] = json.loads(ended.out)
    return lines


def failed(lines: list[dict[str, Any]]) -> dict[str, str]:
    """What failed, by name."""
    return told(lines, "failed")


def told(lines: list[dict[str, Any]], state: str) -> dict[str, str]:
    """The messages of a state, by name; several of one name are joined."""
    found: dict[str, str] = {}
    for line in lines:
        if line["state"] == state:
            found[line["name"]] = "; ".join(filter(None, [found.get(line["name"]), line["message"]]))
    return found


def as_administrator(rules: Path) -> Path:
    """Log in to Harbor as its administrator instead of as the robot."""
    text = rules.read_text()
    for old, new in zip(HARBOR_ROBOT, HARBOR_ADMIN, strict=True):
        text = text.replace(json.dumps(old), json.dumps(new))
    rules.write_text(text)
    return rules
