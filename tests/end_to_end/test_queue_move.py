"""``replicator queue move``: from the embedded queue to a Redis, with nothing left behind unseen."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.queue import History, Queue
from tests.queue.servers import RedisServer
from tests.running import replicator, running
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import House


@pytest.fixture
def redis() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as server:
        yield server.url


async def test_jobs_that_a_new_redis_does_not_know_are_told_of_and_moved(house: House, redis: str) -> None:
    await push(house.harbor.host, "library/app", "v1", image(1), HARBOR_ROBOT)
    rules, state = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), house.directory / "state"
    settings = {"REPLICATOR_STATE_DIR": str(state)}

    async def run(*arguments: str) -> tuple[int, str]:
        ended = await replicator(*arguments, cwd=house.directory, settings=settings)
        assert "Traceback" not in ended.said
        return ended.code, ended.said

    code, said = await run("queue", "move")
    assert (code, "REPLICATOR_REDIS_URL: is not set" in said) == (2, True)
    code, said = await run("backfill", "--config", str(rules), "--detach")
    assert code == 0, said
    settings["REPLICATOR_REDIS_URL"] = redis
    sentence = f"1 job lies in {state}, outside this queue: move it with replicator queue move"
    assert sentence in (await run("status"))[1].replace("\n", " ")
    left = json.loads((await run("status", "--json"))[1])["left_behind"]
    assert left == {"directory": str(state), "jobs": 1, "dead_letters": 0, "problem": ""}
    code, said = await run("check", "--config", str(rules), "--only=library/app")
    assert (code, "outside this queue" in said) == (1, True)
    async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
        (line,) = await serving.until("work left in the state directory")
        assert (line["jobs"], line["next"]) == (1, sentence)
        code, said = await run("queue", "move")
        assert (code, said) == (0, f"1 job moved from {state} to {redis}\n")
        await serving.until("copy done", destination=f"{house.acr.host}/image-syncer/app:v1")
    code, said = await run("queue", "move")
    assert (code, said.startswith(f"nothing moved from {state} to ")) == (0, True)
    code, said = await run("queue", "move", "--json")
    assert (code, json.loads(said)) == (0, {"jobs": 0, "dead_letters": 0})
    assert "left_behind" not in json.loads((await run("status", "--json"))[1])
    async with await Queue.connect(redis) as queue:
        (action,) = (await History.read(queue)).actions
    assert (action.action, action.what) == ("move", f"1 job from {state}")
