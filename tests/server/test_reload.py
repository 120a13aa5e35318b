"""The signal that reloads, before and after there is anything to reload."""

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
async def test_a_sighup_while_the_rest_of_a_process_ends_does_not_end_it_at_once() -> None:
    rules = parse(RULES, "rules.json", environ={})
    configuration = Configuration(Settings(_env_file=None, watch=False), rules, ())
    async with Reloader(configuration, lambda: configuration, lambda _: None).beside():
        pass
    # What closes after this, such as the queue, has the time that it needs.
    signal.raise_signal(signal.SIGHUP)


@pytest.mark.usefixtures("handler")
async def test_what_changed_between_the_first_reading_and_the_watching_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(RULES)
    settings, applied = Settings(_env_file=None, config=file), asyncio.Event()
    reads: list[str] = []

    def load() -> Configuration:
        seen = marks(watched_files(settings))
        reads.append(file.read_text())
        return Configuration(settings, parse(reads[-1], "rules.json", environ={}), seen)

    first = load()
    # As long as an embedded queue takes to load its data.
    file.write_text(RULES + "\n")
    async with Reloader(first, load, lambda _: applied.set()).beside(), asyncio.timeout(30):
        await applied.wait()
    assert reads == [RULES, RULES + "\n"]


@pytest.mark.usefixtures("handler")
async def test_a_fault_in_the_reading_is_shown_as_what_keeps_the_files_from_being_in_force() -> None:
    rules = parse(RULES, "rules.json", environ={})
    configuration = Configuration(Settings(_env_file=None, watch=False), rules, ())

    def load() -> Configuration:
        raise RuntimeError("broken")

    reloader = Reloader(configuration, load, lambda _: None)
    async with reloader.beside(), asyncio.timeout(30):
        reloader.ask()
        while reloader.problem is None:
            await asyncio.sleep(0.01)
    assert reloader.current is configuration


def test_the_file_of_dockers_logins_is_watched_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.json"
    assert file not in watched_files(Settings(_env_file=None))
    assert file in watched_files(Settings(_env_file=None, docker_config=str(file)))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert file in watched_files(Settings(_env_file=None))
    assert file not in watched_files(Settings(_env_file=None, docker_config="off"))
