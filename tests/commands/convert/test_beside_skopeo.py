"""Converted rules ask for the same copies as ``skopeo sync`` makes, at real registries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp

from replicator.commands.convert import File, Options, convert_files
from replicator.reference import Reference, Repository
from replicator.rules import parse
from tests.standins.distribution import reused_distribution
from tests.standins.images import image, push
from tests.standins.skopeo import skopeo

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standins.images import Image

TAGS = ["1.0", "1.10", "v2", "latest", "release-1", "xrelease-2", "release", "2-dev"]
REPOSITORIES = ["team/app", "team/tool", "deep/er/site", "api"]


async def tags_at(host: str, repository: str) -> set[str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}/v2/{repository}/tags/list") as reply:
        found = (await reply.json()).get("tags") if reply.status == 200 else None
    return set(found or ())


def content(host: str, one: Image) -> dict[str, Any]:
    listed = {"team/app": [], "team/tool": ["1.0", "v2", one.digest]}
    expressions = {"deep/er/site": "^release-|ev$", "api": r"1\.0|^v"}
    return {host: {"images": listed, "images-by-tag-regex": expressions, "tls-verify": False}}


async def test_the_same_tags_arrive_under_the_same_names(tmp_path: Path) -> None:
    one = image(1)
    async with reused_distribution() as source, reused_distribution() as end:
        for repository in REPOSITORIES:
            for tag in TAGS:
                await push(source, repository, tag, one)
        (tmp_path / "sync.yml").write_text(json.dumps(content(source, one)))
        arguments = ("--src=yaml", "--dest=docker", "--dest-tls-verify=false", str(tmp_path / "sync.yml"))
        await skopeo("sync", *arguments, f"{end}/mirror")
        brought = {name: await tags_at(end, f"mirror/{name}") for name in ("app", "tool", "site", "api")}
    assert all(brought.values())
    found = convert_files([File("sync.yml", (tmp_path / "sync.yml").read_text())], Options(end, "mirror"))
    rules = parse(found.text, "rules.yaml", environ=dict.fromkeys(found.variables, "x"))
    asked: dict[str, set[str]] = {}
    for name in REPOSITORIES:
        for request in rules.requests(Repository(source, name), TAGS):
            if request.destination.tag is not None:
                assert request.destination.repository.registry == end
                asked.setdefault(request.destination.repository.name, set()).add(request.destination.tag)
    assert asked == {f"mirror/{name}": tags for name, tags in brought.items()}
    by_digest = Reference(Repository(source, "team/tool"), digest=one.digest)
    (request,) = rules.destinations(by_digest)
    assert str(request.destination) == f"{end}/mirror/tool@{one.digest}"
