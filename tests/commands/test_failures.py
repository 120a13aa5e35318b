"""``replicator failures`` shows dead letters by cause, in lines that a program can read, and retries a cause."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from replicator import commands
from replicator.commands.failures import drop_failures, print_causes, print_failures
from replicator.errors import FAILED, OK, ErrorClass, ReplicatorError
from replicator.queue import CauseReader
from replicator.settings import Settings
from tests.queue.conftest import prefix, queue, server, short_dir
from tests.queue.test_causes import bury, letter

if TYPE_CHECKING:
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


def test_with_json_an_error_is_an_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        error = ReplicatorError("host: GET /v2/", "503", "wait")
        error.error_class = ErrorClass.NOT_YET
        raise error

    monkeypatch.setattr(commands, "app", fails)
    monkeypatch.setattr("sys.argv", ["replicator", "status", "--json"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == FAILED
    printed = capsys.readouterr()
    told = {"what": "host: GET /v2/", "why": "503", "do": "wait", "class": "not_yet"}
    assert json.loads(printed.out) == {"error": told}
    assert "503" in printed.err
