"""``replicator queue``: what each subcommand does and says, in this process and with a real Redis."""

from __future__ import annotations

import asyncio
import io
import json
import re
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner

from replicator.commands import app
from replicator.commands.failures import drop_failures
from replicator.commands.queue import cancel_jobs, pause_jobs, print_jobs, resume_jobs
from replicator.commands.status import draw_status
from replicator.console import page
from replicator.errors import ConfigError
from replicator.queue import History, Job, Lane, Selection, Status, list_pauses
from replicator.settings import Settings
from tests.queue.conftest import Recorder, handler, prefix, queue, server, short_dir, working

if TYPE_CHECKING:
    from replicator.queue import Queue
    from tests.queue.servers import RedisServer

__all__ = ["handler", "prefix", "queue", "server", "short_dir"]

TEAM, OTHER = Selection(rule="h.example/team/**"), Selection(rule="h.example/other/**")


@pytest.fixture
def settings(server: RedisServer, prefix: str) -> Settings:
    return Settings(redis_url=SecretStr(server.url), redis_prefix=prefix)


class Paper:
    """A console whose text is read piece by piece."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO(), width=200)

    def read(self) -> str:
        file = cast("io.StringIO", self.console.file)
        text = file.getvalue()
        file.seek(0)
        file.truncate()
        return text


def jobs(team: str, *names: str) -> list[Job]:
    return [
        Job(f"r.example/{n}:1", {"source": f"h.example/{team}/{n}:1", "rule": f"h.example/{team}/**"}) for n in names
    ]


async def test_a_pause_is_shown_everywhere_and_ended_by_the_options_that_began_it(
    queue: Queue, settings: Settings
) -> None:
    await queue.enqueue(jobs("team", "a", "b"), Lane.EVENTS)
    out, err = Paper(), Paper()
    assert await pause_jobs(settings, [TEAM], now=False, dry_run=True, as_json=False, out=out.console) == 0
    assert "would be paused: rule h.example/team/**\n2 copies pending, 0 running\n" in out.read()
    assert await list_pauses(queue) == []
    assert await pause_jobs(settings, [TEAM], now=True, dry_run=False, as_json=False, out=out.console) == 0
    assert "to resume: replicator queue resume --rule 'h.example/team/**'" in out.read()
    shown = Paper()
    status = await Status.read(queue)
    page(draw_status(status), shown.console)
    assert "rule h.example/team/** has been paused since" in shown.read()
    assert status.to_json()["pauses"][0]["selection"] == {"rule": "h.example/team/**"}
    await print_jobs(settings, [Selection()], limit=1, as_json=False, out=out.console)
    text = out.read()
    assert re.search(r"h.example/team/.:1\tpaused\tevents", text)
    assert "and 1 more" in text
    assert "replicator queue resume --rule 'h.example/team/**'" in text
    facts: Any = {"dry_run": False, "as_json": False, "out": out.console, "err": err.console}
    assert await resume_jobs(settings, [TEAM, OTHER], **facts) == 1
    assert out.read() == "resumed: rule h.example/team/**\n"
    assert err.read() == "not paused: rule h.example/other/**\n"
    assert await resume_jobs(settings, None, **facts) == 0
    assert out.read() == "nothing is paused\n"
    noted = [(each.action, each.what) for each in (await History.read(queue)).actions]
    assert noted == [("resume", TEAM.sentence), ("pause", f"{TEAM.sentence}, running copies too")]


async def test_a_cancellation_counts_waits_for_running_copies_and_is_noted(
    queue: Queue, settings: Settings, handler: Recorder
) -> None:
    out, err = Paper(), Paper()
    facts: Any = {"as_json": False, "out": out.console, "err": err.console}
    handler.gate.clear()
    async with working(queue, handler, concurrency={Lane.EVENTS: 1, Lane.BACKFILL: 1}, lease=30.0):
        await queue.enqueue(jobs("team", "a"), Lane.EVENTS)
        await handler.started(1)
        await queue.enqueue(jobs("team", "b", "c"), Lane.EVENTS)
        assert await cancel_jobs(settings, [TEAM], dry_run=True, **facts) == 0
        assert out.read() == "would be cancelled: 3 copies, 1 of them running\n"
        assert await cancel_jobs(settings, [TEAM], dry_run=False, **facts) == 0
        assert out.read() == "cancelled: 3 copies, 1 of them running\n"
        assert err.read() == ""
    assert len(handler.runs) == 1
    assert [each.what for each in (await History.read(queue)).actions] == [f"{TEAM.sentence}: 3 copies"]
    assert await cancel_jobs(settings, [TEAM], dry_run=False, **{**facts, "as_json": True}) == 0
    assert json.loads(out.read()) == {
        "selections": [{"rule": "h.example/team/**"}],
        "dry_run": False,
        "copies": 0,
        "running": 0,
        "still_running": [],
    }
    assert len((await History.read(queue)).actions) == 1, "nothing was done"


async def test_a_pending_copy_is_no_dead_letter_and_the_way_to_delete_it_is_told(
    queue: Queue, settings: Settings
) -> None:
    await queue.enqueue(jobs("team", "a"), Lane.EVENTS)
    err = Paper()
    references = ["r.example/a:1", "r.example/absent:1"]
    assert await drop_failures(settings, references, out=err.console, err=err.console) == 1
    assert err.read().splitlines() == [
        "no dead letter with this destination: r.example/absent:1",
        "still pending, so it is no dead letter: r.example/a:1",
        "  replicator queue cancel --destination r.example/a:1 deletes it",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["pause"],
        ["cancel"],
        ["resume"],
        ["cancel", "--all", "--rule", "x"],
        ["cancel", "--rule", ""],
        ["pause", "--source", "*" * 17],
    ],
    ids=" ".join,
)
def test_a_selection_is_needed_and_must_be_one(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["queue", *arguments])
    assert isinstance(result.exception, ConfigError)


async def test_options_are_combined(queue: Queue, server: RedisServer, prefix: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("REPLICATOR_REDIS_URL", server.url)
    monkeypatch.setenv("REPLICATOR_REDIS_PREFIX", prefix)
    arguments = ["queue", "pause", "--rule", "a", "--rule", "b", "--lane", "events", "--run", "r", "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == 0, result.output
    paused = {each.selection for each in await list_pauses(queue)}
    assert paused == {Selection(rule=rule, lane=Lane.EVENTS, run="r") for rule in "ab"}
