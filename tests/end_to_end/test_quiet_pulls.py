"""``quiet_pulls``: copies that Harbor does not count as pulls."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.running import TOKEN, replicator, running
from tests.standins.faults import Answer, Fault, Redirect
from tests.standins.images import image, multi_arch, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from tests.end_to_end.conftest import House
    from tests.standins.faults import RequestLog

HARBORS = "harbor-registry-client"
RULE = {"HARBOR/team/**": "ACR/image-syncer/{name}"}


def quiet(rules: Path, *hosts: str) -> Path:
    content: dict[str, Any] = json.loads(rules.read_text())
    for host in hosts:
        content["auth"][host]["quiet_pulls"] = True
    rules.write_text(json.dumps(content))
    return rules


def agents(log: RequestLog) -> dict[bool, set[str]]:
    """What was sent as User-Agent: with GETs of manifests (True), and with all else."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for entry in log:
        kind = entry.method == "GET" and "/manifests/" in entry.path
        found[kind].add(entry.headers["User-Agent"].partition("/")[0])
    return found


async def test_a_source_is_told_harbors_own_name_with_manifests_alone_and_a_destination_never(house: House) -> None:
    pushed = multi_arch(1)
    # The destination's entry says it too: it counts for what is read there as a source.
    rules = quiet(house.rules(RULE), house.harbor.host, house.acr.host)
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("team", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "team/app", "v1", pushed, HARBOR_ROBOT)
        house.harbor.faults.log.clear()
        await serving.until("copy done")
        await verify_tree(house.behind_acr, "image-syncer/app", "v1", pushed)
    ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert agents(house.harbor.faults.log) == {True: {HARBORS}, False: {"replicator"}}
    assert house.acr.faults.log.count("PUT", "/manifests/")
    assert HARBORS not in {name for names in agents(house.acr.faults.log).values() for name in names}
    assert house.harbor.pulls == []


async def test_without_it_copies_count_as_pulls_under_our_own_name(house: House) -> None:
    await push(house.behind_harbor, "team/app", "v1", image(1))
    ended = await replicator("backfill", "--config", house.rules(RULE), cwd=house.directory)
    assert ended.code == 0, ended.said
    assert agents(house.harbor.faults.log) == {True: {"replicator"}, False: {"replicator"}}
    assert len(house.harbor.pulls) == 1


async def test_a_harbor_that_is_destination_too_sees_our_own_name_there(house: House) -> None:
    await push(house.behind_harbor, "team/app", "v1", image(1))
    rules = quiet(house.rules({"HARBOR/team/app": "HARBOR/library/app"}), house.harbor.host)
    # What takes no HEAD is asked by GET.
    house.harbor.faults.add(Fault(Answer(405), "HEAD", "/library/app/manifests/", times=None))
    async with running(
        "serve", "--config", rules, cwd=house.directory, settings={"REPLICATOR_RECONCILE": "20s"}
    ) as one:
        await one.until("copy done")
    log = house.harbor.faults.log
    assert {each.headers["User-Agent"] for each in log.select("GET", "/team/app/manifests/")} == {HARBORS}
    others = [each for each in log if "/library/app/" in each.path]
    assert log.count("GET", "/library/app/manifests/")
    assert HARBORS not in {each.headers["User-Agent"] for each in others}


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_where_a_source_redirects_to_sees_our_own_name(house: House, kind: str) -> None:
    await push(house.behind_harbor, "team/app", "v1", image(1))
    seen: list[web.BaseRequest] = []

    async def storage(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request)
        return await behind.forward(request)

    async with Upstream(house.behind_harbor) as behind, serve(storage) as host:
        house.harbor.faults.add(Fault(Redirect(f"http://{host}"), "GET", f"/{kind}/", times=None))
        rules = quiet(house.rules(RULE), house.harbor.host)
        ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert seen
    assert {request.headers["User-Agent"].partition("/")[0] for request in seen} == {"replicator"}
    assert not any("Authorization" in request.headers for request in seen)
