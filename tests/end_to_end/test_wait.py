"""``replicator wait`` in the script of a pipeline, beside a real ``serve``."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING

from tests.running import TOKEN, environment, replicator, running
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

READ = "read-token-of-the-tests"
PIPELINE = """#!/bin/sh
set -eu
: > started
replicator wait "$IMAGE" --timeout 2m
echo "deploy $IMAGE"
code=0
replicator wait "$OTHER" --timeout 2m || code=$?
echo "no rule: $code"
"""


def pipeline(directory: Path) -> Path:
    """A script, and the program as it finds it on its PATH."""
    (directory / "bin").mkdir()
    program, script = directory / "bin" / "replicator", directory / "pipeline.sh"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m replicator "$@"\n')
    script.write_text(PIPELINE)
    for each in (program, script):
        each.chmod(each.stat().st_mode | stat.S_IXUSR)
    return script


async def test_a_pipeline_goes_on_when_the_image_is_there(house: House) -> None:
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    name = f"{house.harbor.host}/library/app:v1"
    script = pipeline(house.directory)
    async with running(
        "serve", "--config", rules, cwd=house.directory, settings={"REPLICATOR_API_TOKENS": f"read:{READ}"}
    ) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        variables = environment(REPLICATOR_API_URL=serving.url, REPLICATOR_API_TOKEN=READ)
        variables |= {"IMAGE": name, "OTHER": f"{house.harbor.host}/elsewhere/app:v1"}
        variables["PATH"] = f"{house.directory / 'bin'}{os.pathsep}{variables['PATH']}"
        process = await asyncio.create_subprocess_exec(
            script, cwd=house.directory, env=variables, stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(60):
                assert process.stderr is not None
                assert b"not at the source yet" in await process.stderr.readline()
                await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, err
        where = f"{house.acr.host}/image-syncer/app:v1"
        first, *rest = out.decode().splitlines()
        assert first.startswith(f"{name} is at {where} (sha256:")
        assert rest == [f"deploy {name}", "no rule: 4"]
        assert b"no rule copies" in err
        # The same by a token that the API does not know, and straight at the registries.
        known = {"REPLICATOR_API_URL": serving.url, "REPLICATOR_API_TOKEN": "wrong-token-wrong-token"}
        refused = await replicator("wait", name, cwd=house.directory, settings=known)
        assert (refused.code, "REPLICATOR_API_TOKENS" in refused.err) == (2, True), refused.said
    asked = await replicator("wait", name, "--json", "--timeout", "0s", "--config", rules, cwd=house.directory)
    found = json.loads(asked.out)
    assert (asked.code, found["result"]) == (0, "in_place")
    assert [each["destination"] for each in found["images"][0]["image"]["images"]] == [where]
