"""``replicator failures`` shows dead letters by cause, in lines that a program can read, and retries a cause."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from replicator.commands.failures import draw_cause, drop_failures, print_causes, print_failures, retry_failures
from replicator.commands.status import show_status
from replicator.errors import FAILED, OK
from replicator.queue import CauseReader, Causes, DeadLetters, sample_causes
from replicator.settings import Settings
from tests.queue.conftest import prefix, queue, server, short_dir
from tests.queue.test_causes import bury, letter

if TYPE_CHECKING:
    import pytest

    from replicator.queue import Queue
    from tests.queue.servers import RedisServer

__all__ = ["prefix", "queue", "server", "short_dir"]


async def test_a_cause_is_one_entry_and_its_copies_are_listed_and_dropped_by_its_id(
    queue: Queue, server: RedisServer, prefix: str
) -> None:
    settings = Settings(redis_url=server.url, redis_prefix=prefix)
    await bury(queue, prefix, *(letter(number) for number in range(40)), letter(99, "quota"))
    cause = (await CauseReader(queue).read())[0].id
    paper = io.StringIO()
    out = Console(file=paper, width=600, color_system=None)
    assert await print_causes(settings, as_json=False, out=out) == OK
    first, second, _ = paper.getvalue().split("\n\n")
    assert f"cause: {cause}\n" in first
    assert "count: 40\n" in first
    assert f"retry: replicator failures retry --cause {cause}" in first
    assert "count: 1\n" in second
    assert max(map(len, paper.getvalue().splitlines())) < 200, "nothing is padded"
    paper.truncate(0)
    assert await print_failures(settings, cause=cause, as_json=False, out=out) == OK
    assert paper.getvalue().count("destination: ") == 40
    paper.seek(0)
    paper.truncate(0)
    assert await drop_failures(settings, None, cause=cause, as_json=True, out=out, err=out) == OK
    assert len(json.loads(paper.getvalue())["dropped"]) == 40
    assert (await queue.counts()).dead == 1
    assert await drop_failures(settings, None, cause=cause, out=out, err=out) == FAILED


def test_at_a_terminal_a_cause_is_a_few_lines_with_what_to_do_and_the_commands_for_it() -> None:
    causes = Causes()
    for number in range(2):
        causes.add_letter(letter(number))
    cause = causes.sorted()[0]
    lines = [line.plain for line in draw_cause(cause)]
    assert lines[0] == cause.sentence
    assert lines[0].startswith("2 copies, one reason: ")
    assert not [line for line in lines[1:] if line.strip() in lines[0]], "nothing twice"
    assert any(line.startswith("  permanent; first ") and ", last " in line for line in lines)
    assert lines[-3:] == [
        f"  e.g. {cause.examples[0]}",
        f"  show: replicator failures --cause {cause.id}",
        f"  retry: replicator failures retry --cause {cause.id}",
    ]
    undated = Causes().add("", "a\x1b[2J", "", "r.example/b:1")
    assert [line.plain for line in draw_cause(undated)][:2] == ["1 copy: r.example: a [2J", "  e.g. r.example/b:1"]


async def test_all_are_retried_without_a_list_of_all_in_memory(
    queue: Queue, server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = replace(letter(99), payload=None)
    await bury(queue, prefix, *(letter(number) for number in range(3)), lost)
    monkeypatch.setattr(DeadLetters, "all", None)
    await queue.redis.hset(f"{prefix}:dead-jobs", letter(1).id, "a job")  # type: ignore[misc]  # redis-py's types
    for references, queued in (None, [letter(1).id]), ([lost.id, "r.example/no:1"], []):
        paper = io.StringIO()
        out, settings = Console(file=paper), Settings(redis_url=server.url, redis_prefix=prefix)
        assert (
            await retry_failures(settings, references, as_json=True, out=out, err=Console(file=io.StringIO())) == FAILED
        )
        unknown = [] if references is None else ["r.example/no:1"]
        assert json.loads(paper.getvalue()) == {"queued": queued, "lost": [lost.id], "unknown": unknown}


async def test_status_tells_the_causes_of_dead_letters(queue: Queue, server: RedisServer, prefix: str) -> None:
    settings = Settings(redis_url=server.url, redis_prefix=prefix)
    await bury(queue, prefix, *(letter(number) for number in range(7)), letter(99, "quota"))
    paper = io.StringIO()
    out = Console(file=paper, width=600, color_system=None)
    assert await show_status(settings, as_json=True, every=None, out=out, err=out) == OK
    told = json.loads(paper.getvalue())
    assert [cause["count"] for cause in told["causes"]] == [7, 1]
    assert told["dead"] == 8
    assert (await sample_causes(queue, most=5)).total == 5


async def test_copies_that_wait_for_a_login_are_named_where_there_are_no_dead_letters(
    queue: Queue, server: RedisServer, prefix: str
) -> None:
    settings = Settings(redis_url=server.url, redis_prefix=prefix)
    await queue.ask("wait_begin", "login:acr.example/me", 0, 60_000, "1", "refused")
    for show in print_causes, print_failures:
        paper = io.StringIO()
        assert await show(settings, as_json=False, out=Console(file=paper, width=600)) == OK
        none, login = paper.getvalue().splitlines()
        assert none == "no dead letters"
        assert login.startswith("the login me at acr.example has been refused since 1970")
        assert login.endswith("0 copies wait for it: replicator status says why")
