"""The Compose projects of ``deploy/compose`` do what the documentation says of them."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest
import yaml

from tests.docs.pages import ROOT, Block, blocks
from tests.running import replicator, running
from tests.standins.distribution import distribution
from tests.standins.images import fetch_raw, image, push

COMPOSE = ROOT / "deploy" / "compose"


def project(file: str) -> dict[str, Any]:
    content = yaml.safe_load((COMPOSE / file).read_text())
    assert isinstance(content, dict)
    return content


def test_the_registries_to_try_are_reached_from_this_machine_alone() -> None:
    found = project("try.yaml")
    published = [port for service in found["services"].values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    # The steps name these ports, and no others.
    steps = "\n".join(block.text for block in steps_to_try())
    assert set(re.findall(r"localhost:(\d+)", steps)) == {port.split(":")[1] for port in published}


V1 = {"build", "cap_drop", "command", "container_name", "depends_on", "env_file", "environment", "image", "networks"}
V1 |= {"ports", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "volumes"}
"""The fields of a service that the files use, all of which Compose v1 knows."""


@pytest.mark.parametrize("file", ["compose.yaml", "compose.workers.yaml", "try.yaml"])
def test_compose_v1_reads_the_files_but_for_a_line_that_says_so(file: str) -> None:
    found = project(file)
    assert all(set(service) <= V1 for service in found["services"].values())
    text = (COMPOSE / file).read_text()
    assert set(found) - {"services", "networks", "volumes"} == (
        {"name"} if "does not support this line" in text else set()
    )


@pytest.mark.parametrize("file", ["compose.yaml", "try.yaml"])
def test_the_image_is_built_from_mirrors_that_are_named(file: str) -> None:
    (default,) = re.findall(r"^ARG BASE_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    build = project(file)["services"]["replicator"]["build"]
    arguments = {"BASE_IMAGE": f"${{BASE_IMAGE:-{default}}}", "PIP_INDEX_URL": "${PIP_INDEX_URL:-}"}
    assert build == {"context": "../..", "args": arguments}
    text = (COMPOSE / ".env.example").read_text()
    assert all(f"\n# {name}=" in text for name in arguments)


async def test_the_steps_to_try_it_by_hand_copy_an_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("t")
    service = project("try.yaml")["services"]["replicator"]
    mounted = service["volumes"][0].split(":")[0]
    rules = (COMPOSE / mounted).read_text()
    (call,) = [block.text for block in steps_to_try() if "curl" in block.text]
    first, second = (image(seed, (500,)) for seed in (1, 2))
    async with distribution() as harbor, distribution() as acr:
        # The names within the project stand for where the registries are here.
        (root / "rules.yaml").write_text(rules.replace("harbor:5000", harbor).replace("acr:5000", acr))
        (event,) = re.findall(r"--data '(.*?)'", call)
        headers = dict(header.split(": ") for header in re.findall(r"--header '(.*?)'", call))
        settings = {**service["environment"], "REPLICATOR_CONFIG": "rules.yaml"}
        await push(harbor, "library/hello", "1", first)
        async with running("serve", cwd=root, settings=settings) as serving:
            url, body = f"{serving.url}/webhooks/harbor", event.replace("harbor:5000", harbor)
            async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
                assert answer.ok, await answer.text()
            await serving.until("copy done")
            assert (await fetch_raw(acr, "team-mirror/hello", "1"))[0] == first.content
            await push(harbor, "library/hello", "2", second)
            ended = await replicator("backfill", "--config", "rules.yaml", cwd=root)
            assert ended.code == 0, ended.said
        assert (await fetch_raw(acr, "team-mirror/hello", "2"))[0] == second.content


def steps_to_try() -> list[Block]:
    """The commands of "Try it by hand"."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    line = text[: text.index("\n## Next to Harbor")].count("\n")
    found = [block for block in blocks("sh") if block.page.name == "deployment.md" and block.line < line]
    return [block for block in found if "localhost:1" in block.text]
