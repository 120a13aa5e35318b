"""Temporary ACR logins and automatic repository creation, through the whole program."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.end_to_end.conftest import PUBLIC_NAME, report
from tests.running import replicator
from tests.standins.images import image, push, put_manifest, verify_tree
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.end_to_end.conftest import House

TAGS = 20


@asynccontextmanager
async def rules(house: House, create: dict[str, Any] | None) -> AsyncIterator[tuple[Path, OpenApiStandIn]]:
    """Give rules with an account at Alibaba Cloud in place of ACR's login."""
    openapi = OpenApiStandIn(acr=house.acr)
    async with serve(openapi.faults) as host:
        file = house.rules({"HARBOR/library/*": "ALIYUN/manual/{name}"})
        content = json.loads(file.read_text())
        account = {"access_key_id": "key-id", "access_key_secret": "key-secret", "openapi_endpoint": f"http://{host}"}
        way = {"endpoint": f"http://{house.acr.host}"}
        content["auth"][PUBLIC_NAME] = way | {"aliyun": account | ({"create": create} if create else {})}
        file.write_text(json.dumps(content))
        yield file, openapi


async def test_many_tags_go_to_repositories_that_are_created_under_logins_that_are_given_out(house: House) -> None:
    house.acr.tokens.seconds = 0.5
    root = image()
    for name in ("app", "site"):
        await push(house.harbor.host, f"library/{name}", "t0", root, HARBOR_ROBOT)
        for number in range(1, TAGS):
            await put_manifest(house.behind_harbor, f"library/{name}", f"t{number}", root)
    log = house.directory / "log"
    async with rules(house, {"repositories": "private"}) as (file, openapi):
        ended = await replicator(
            "backfill", "--config", file, "--log", log, "--report", "report.json", cwd=house.directory
        )
    assert ended.code == 0, ended.said
    assert len(report(house.directory / "report.json")) == TAGS
    assert openapi.repositories == {"manual/app": "PRIVATE", "manual/site": "PRIVATE"}
    assert openapi.actions.count("CreateRepo") == 2
    assert openapi.given == 1
    for name in ("app", "site"):
        await verify_tree(house.behind_acr, f"manual/{name}", f"t{TAGS - 1}", root)
    for secret in ("key-secret", "temporary-1"):
        assert secret not in ended.said + log.read_text()
    assert house.acr.leaks == []


async def test_a_namespace_that_is_missing_and_not_to_be_created_is_told(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    async with rules(house, {"repositories": "private"}) as (file, openapi):
        del house.acr.namespaces["manual"], openapi.namespaces["manual"]
        ended = await replicator("backfill", "--config", file, cwd=house.directory)
    assert ended.code == 1, ended.said
    assert "NAMESPACE_NOT_EXIST" in ended.said
    assert "namespaces: true" in ended.said
    assert openapi.namespaces.keys().isdisjoint({"manual"})
