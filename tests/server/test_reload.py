"""Reloading by SIGHUP and by watching files."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from replicator.rules import parse
from replicator.server.reload import Configuration, Reloader, marks, watched_files
from replicator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULES = '{"auth": {"h.example.com": {"anonymous": true}}, "images": {"h.example.com/a/b": "h.example.com/c/d"}}'


@pytest.fixture
def handler() -> Iterator[None]:
    """Leave the tests' own handler of SIGHUP as it is."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("handler")
async def test_a_sighup_while_a_process_stops_does_not_kill_it() -> None:
    rules = parse(RULES, "rules.json", environ={})
    configuration = Configuration(Settings(_env_file=None, watch=False), rules, ())
    async with Reloader(configuration, lambda: configuration, lambda _: None).beside():
        pass
    # What closes after this, such as the queue, has the time that it needs.
    signal.raise_signal(signal.SIGHUP)


@pytest.mark.usefixtures("handler")
async def test_a_change_between_the_first_reading_and_the_watching_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(RULES)
    settings, applied = Settings(_env_file=None, config=file), asyncio.Event()
    reads: list[str] = []

    def load() -> Configuration:
        found = marks(watched_files(settings))
        reads.append(file.read_text())
        return Configuration(settings, parse(reads[-1], "rules.json", environ={}), found)

    first = load()
    # As long as an embedded queue takes to load its data.
    file.write_text(RULES + "\n")
    async with Reloader(first, load, lambda _: applied.set()).beside(), asyncio.timeout(30):
        await applied.wait()
    assert reads == [RULES, RULES + "\n"]


@pytest.mark.usefixtures("handler")
async def test_a_bug_while_loading_is_shown_as_the_problem_with_the_configuration() -> None:
    rules = parse(RULES, "rules.json", environ={})
    configuration = Configuration(Settings(_env_file=None, watch=False), rules, ())

    def load() -> Configuration:
        raise RuntimeError("broken")

    reloader = Reloader(configuration, load, lambda _: None)
    async with reloader.beside(), asyncio.timeout(30):
        reloader.request()
        while reloader.status().problem is None:
            await asyncio.sleep(0.01)
    assert reloader.current is configuration


def test_dockers_config_file_is_watched_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.json"
    assert file not in watched_files(Settings(_env_file=None))
    assert file in watched_files(Settings(_env_file=None, docker_config=str(file)))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert file in watched_files(Settings(_env_file=None))
    assert file not in watched_files(Settings(_env_file=None, docker_config="off"))
