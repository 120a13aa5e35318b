"""One team's mistake stays its own: what of the rules files is in force, at a start and at a reload."""

from __future__ import annotations

import json
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator.errors import ConfigError
from replicator.rules.defaults import RulesOptions
from replicator.server.reload import Reloader
from replicator.server.runtime import AcceptedRules
from replicator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from replicator.server.reload import Configuration

AUTH = {host: {"username": "u", "password": "its-password"} for host in ("h.example.com", "d.example.com")}
REDIS = "redis://r.example.com"


def text(*teams: str) -> str:
    images = {f"h.example.com/{team}/app": f"d.example.com/{team}/app" for team in teams}
    return json.dumps({"auth": AUTH, "images": images})


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Leave the tests' own handler of SIGHUP as it is."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


class Process:
    """A process's life with rules files, without its queue."""

    def __init__(self, config: Path, state: Path, *, strict: bool = False, environ: Any = None, **more: Any) -> None:
        self.settings = Settings(_env_file=None, config=config, state_dir=state, **more)
        self._environ = environ or {}
        self._rules = AcceptedRules(self.settings)
        self.reloader = Reloader(self._load(strict=strict), self._load, lambda _: None)

    def _load(self, *, strict: bool = False) -> Configuration:
        return self._rules.load(self.settings, RulesOptions(environ=self._environ), strict=strict)

    async def run(self) -> Process:
        """Begin and end it."""
        async with self.reloader.beside():
            return self

    @property
    def teams(self) -> str:
        return "".join(sorted(key.split("/")[1] for key in self.reloader.current.rules.keys))


async def test_a_start_with_a_broken_file_goes_on_with_the_version_that_was_accepted_last(tmp_path: Path) -> None:
    config, state = tmp_path / "rules.json", tmp_path / "state"
    config.write_text(text("a", "b"))
    first = await Process(config, state).run()
    assert first.reloader.status().problem is None
    for broken in ("{", json.dumps({"auth": AUTH | {"h.example.com": {"username": "u", "password": "${UNSET}"}}})):
        config.write_text(broken)
        with structlog.testing.capture_logs() as logs:
            process = await Process(config, state).run()
        assert process.teams == "ab"
        (refused,) = (line for line in logs if line["event"] == "configuration refused")
        assert (refused["log_level"], refused["source"]) == ("error", str(config))
        assert refused["problems"]
        assert refused["in_force"].startswith("its version of 20")
        status = process.reloader.status()
        assert str(config) in str(status.problem)
        assert "is in force" in str(status.problem)
        assert status.since is not None
        assert status.out == ()
    config.unlink()
    assert (await Process(config, state).run()).teams == "ab"


async def test_the_accepted_version_is_kept_for_this_user_alone_and_in_one_file(tmp_path: Path) -> None:
    config, state = tmp_path / "rules.json", tmp_path / "state"
    config.write_text(text("a"))
    await Process(config, state, environ={"SECRET": "of the environment"}).run()
    (kept,) = state.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert "its-password" in kept.read_text()
    assert "of the environment" not in kept.read_text()
    # The file with another name is not the same one, and what is accepted of it takes the place of the former.
    other = tmp_path / "other.json"
    other.write_text("{")
    with pytest.raises(ConfigError):
        Process(other, state)
    other.write_text(text("b"))
    await Process(other, state).run()
    assert list(state.iterdir()) == [kept]
    assert "h.example.com/a/app" not in kept.read_text()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rules": "PLACE", "files": [["", 1, "/", ["a"]]]}'])
async def test_a_damaged_version_counts_as_none(tmp_path: Path, content: str) -> None:
    config, state = tmp_path / "rules.json", tmp_path / "state"
    config.write_text(text("a"))
    await Process(config, state).run()
    (kept,) = state.iterdir()
    kept.write_text(content.replace("PLACE", str(config)))
    config.write_text("{")
    with pytest.raises(ConfigError):
        Process(config, state)


async def test_strict_ends_a_start_with_a_file_that_can_not_be_used(tmp_path: Path) -> None:
    config, state = tmp_path / "rules", tmp_path / "state"
    config.mkdir()
    (config / "a.json").write_text(text("a"))
    (config / "b.json").write_text(text("b"))
    await Process(config, state).run()
    (config / "b.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        Process(config, state, strict=True)
    assert [problem.path for problem in caught.value.problems] == ["b.json"]
    (config / "b.json").write_text(text("b"))
    assert Process(config, state, strict=True).teams == "ab"


async def test_with_redis_nothing_is_kept_unless_a_directory_is_named_that_can_be_written(tmp_path: Path) -> None:
    config = tmp_path / "rules.json"
    config.write_text(text("a"))
    home = Settings(_env_file=None, redis_url=REDIS)
    assert AcceptedRules(home)._file is None
    (tmp_path / "a file").write_text("")
    with structlog.testing.capture_logs() as logs:
        await Process(config, tmp_path / "a file" / "state", redis_url=REDIS).run()
    assert [line["event"] for line in logs] == []
    await Process(config, tmp_path / "named", redis_url=REDIS).run()
    config.write_text("{")
    assert Process(config, tmp_path / "named", redis_url=REDIS).teams == "a"
    with structlog.testing.capture_logs() as logs:
        (tmp_path / "c.json").write_text(text("c"))
        await Process(tmp_path / "c.json", tmp_path / "a file" / "state").run()
    assert [line["event"] for line in logs] == ["accepted rules not kept"], "the embedded queue's directory is needed"


async def test_at_a_reload_only_the_broken_file_stays_as_it_was_and_is_told_once(tmp_path: Path) -> None:
    config, state = tmp_path / "rules", tmp_path / "state"
    config.mkdir()
    (config / "a.json").write_text(text("a"))
    (config / "b.json").write_text(text("b"))
    process = Process(config, state, watch=False)
    async with process.reloader.beside():
        with structlog.testing.capture_logs() as logs:
            (config / "b.json").write_text("{")
            (config / "c.json").write_text(text("c"))
            await process.reloader.reload()
            assert process.teams == "abc"
            since = process.reloader.status().since
            (config / "a.json").unlink()
            await process.reloader.reload()
        assert process.teams == "bc"
        assert process.reloader.status().since == since
        assert [line["event"] for line in logs] == [
            "configuration refused",
            "configuration loaded",
            "configuration loaded",
        ]
        assert logs[0]["source"] == str(config / "b.json")
        # A restart finds the same.
        assert Process(config, state).teams == "bc"
        (config / "b.json").write_text(text("d"))
        await process.reloader.reload()
        status = process.reloader.status()
        assert (process.teams, status.problem, status.since) == ("cd", None, None)
        (config / "b.json").write_text("{")
        assert Process(config, state).teams == "cd", "what was accepted at a reload serves a restart"


async def test_a_file_that_was_never_accepted_is_out_and_comes_in_when_it_is_mended(tmp_path: Path) -> None:
    config, state = tmp_path / "rules", tmp_path / "state"
    config.mkdir()
    (config / "a.json").write_text(text("a"))
    (config / "b.json").write_text('{"images": {"h.example.com/b/app": {"tu": "d.example.com/b/app"}}}')
    process = await Process(config, state, watch=False).run()
    status = process.reloader.status()
    assert (process.teams, status.out) == ("a", ("b.json",))
    assert "none of its rules is in force" in str(status.problem)
    assert 'b.json: images["h.example.com/b/app"]' in str(status.problem)
    (config / "b.json").write_text(text("b"))
    await process.reloader.reload()
    assert (process.teams, process.reloader.status().out) == ("ab", ())


async def test_a_directory_that_is_gone_or_empty_leaves_every_file_as_it_was(tmp_path: Path) -> None:
    config, state = tmp_path / "rules", tmp_path / "state"
    config.mkdir()
    for team in "ab":
        (config / f"{team}.json").write_text(text(team))
    process = await Process(config, state, watch=False).run()
    for team in "ab":
        (config / f"{team}.json").unlink()
    await process.reloader.reload()
    assert process.teams == "ab"
    config.rmdir()
    again = await Process(config, state).run()
    assert again.teams == "ab"
    assert len(again.reloader.current.refused) == 2
