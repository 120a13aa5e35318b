"""When the secret of a robot account ends, as far as Harbor tells the account."""

from __future__ import annotations

import pytest
from aiohttp import web

from replicator.harbor import HarborApi
from replicator.harbor.robots import robot_end
from replicator.reference import Repository
from replicator.registry import Access
from tests.registry.conftest import client, served

PROJECT_ID = 7
ROBOTS = {
    None: [
        {"id": 1, "name": "robot$all", "expires_at": 1_900_000_000},
        {"id": 2, "name": "robot$for-ever", "expires_at": -1},
        {"id": 3, "name": "robot$odd", "expires_at": "soon"},
    ],
    f"Level=project,ProjectID={PROJECT_ID}": [{"id": 4, "name": "robot$team+ci", "expires_at": 1_800_000_000}],
}


async def harbor(request: web.BaseRequest) -> web.StreamResponse:
    """A Harbor with robot accounts, which all may list."""
    if request.path == "/api/v2.0/projects/team":
        return web.json_response({"project_id": PROJECT_ID})
    if request.path != "/api/v2.0/robots":
        return web.json_response({"errors": [{"code": "FORBIDDEN", "message": "forbidden"}]}, status=403)
    rows = ROBOTS[request.query.get("q")]
    return web.json_response(rows, headers={"X-Total-Count": str(len(rows))})


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("robot$all", 1_900_000_000),
        ("robot$team+ci", 1_800_000_000),
        ("robot$for-ever", None),
        ("robot$odd", None),
        ("robot$unknown", None),
        ("robot$secret+ci", None),  # it may not read its project
        ("admin", None),
    ],
)
async def test_the_end_of_a_robot_account_is_read_where_it_may_list_robot_accounts(
    name: str, ends: float | None
) -> None:
    async with served(harbor) as server:
        access = Access(name, "secret", endpoint=f"http://{server.host}")
        async with client(access) as registries:
            api = HarborApi(server.host, registries.transport(Repository(server.host, "team/x")))
            assert await robot_end(api, name) == ends
