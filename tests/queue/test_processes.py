"""Signs of life: the processes of an installation see each other, and each other's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.queue import LoadedConfig, Queue, Status, announced, processes
from tests.queue.conftest import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.queue.servers import RedisServer


async def test_a_process_is_listed_while_it_runs(queue: Queue) -> None:
    state = LoadedConfig(1_700_000_000.5, "images: no such thing" * 1000)
    async with announced(queue, "serve", "1.2", lambda: state), announced(queue, "worker", "1.3", lambda: state):
        found = await eventually(lambda: _all(queue, 2))
        assert [one.command for one in found] == ["serve", "worker"] or found[0].started == found[1].started
        (serve,) = [one for one in found if one.command == "serve"]
        assert (serve.version, serve.loaded.timestamp()) == ("1.2", 1_700_000_000.5)
        assert serve.problem is not None
        assert serve.problem.startswith("images: no such thing")
        assert len(serve.problem) == 2000
    assert await processes(queue) == []


async def test_it_says_since_when_it_has_a_problem_and_which_rules_files_are_out(queue: Queue) -> None:
    state = LoadedConfig(1.0, "a problem", 2.5, ["\udcff.yaml"])
    async with announced(queue, "serve", "1.2", lambda: state):
        (found,) = (await eventually(lambda: refusing(queue))).refusing
    assert (found.out, found.since) == (("?.yaml",), "1970-01-01T00:00:02.500Z")
    assert found.problem_sentence.endswith("does not use the current files since 1970-01-01T00:00:02.500Z: a problem")


async def refusing(queue: Queue) -> Status | None:
    status = await Status.read(queue)
    return status if status.refusing else None


async def test_one_without_a_problem_has_none(queue: Queue) -> None:
    async with announced(queue, "serve", "1", lambda: LoadedConfig(1.0, None)):
        (found,) = await eventually(lambda: _all(queue, 1))
        assert found.problem is None


async def test_one_whose_redis_is_away_goes_on(own_server: RedisServer, short_dir: Path) -> None:
    async with await Queue.connect(own_server.url) as queue:
        own_server.kill()
        async with announced(queue, "serve", "1", lambda: LoadedConfig(1.0, None)):
            pass


async def _all(queue: Queue, number: int) -> list[object]:
    found = await processes(queue)
    return list(found) if len(found) == number else []
