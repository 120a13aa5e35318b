"""The command line as a whole."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from replicator.commands import COMMANDS, EXAMPLES, app, load_command

HEAVY = (
    *("replicator.queue", "replicator.rules.loading", "replicator.registry.client", "replicator.copy.engine"),
    *("replicator.replication.backfill", "replicator.server.app", "replicator.harbor.api"),
    *("aiohttp", "arq", "redis", "starlette", "uvicorn", "prometheus_client", "jinja2", "pydantic", "yaml", "rich"),
    *("typer", "jwt.api_jwt", "cryptography.x509"),
)
PROGRAM = f"""
import atexit, sys
loaded = lambda: print("loaded:", *(name for name in {HEAVY!r} if name in sys.modules), "all:", len(sys.modules))
atexit.register(loaded)
from replicator.__main__ import main
main()
"""
ABSENT = "127.0.0.1:1"
"""Nobody listens there."""


@pytest.mark.parametrize(
    ("arguments", "loaded", "most"),
    [
        (["--version"], set(), 90),
        (["--help"], {"rich", "typer"}, 370),
        (["health", "--listen", ABSENT], {"aiohttp", "pydantic", "rich", "typer"}, 560),
        (["status"], {"replicator.queue", "arq", "pydantic", "redis", "rich", "typer"}, 590),
        (["failures"], {"replicator.queue", "arq", "pydantic", "redis", "rich", "typer"}, 590),
        (
            ["copy", "registry.invalid/a/b:1", "registry.invalid/c/d:1"],
            {"replicator.registry.client", "replicator.copy.engine", "aiohttp", "pydantic", "typer"},
            580,
        ),
        (
            ["explain", "h.example.com/a/b:1", "--config", "rules.json"],
            {"replicator.rules.loading", "pydantic", "typer"},
            480,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_loads_only_what_it_needs(arguments: list[str], loaded: set[str], most: int, tmp_path: Path) -> None:
    auth = {"h.example.com": {"anonymous": True}}
    (tmp_path / "rules.json").write_text(
        json.dumps({"auth": auth, "images": {"h.example.com/a/b": "h.example.com/c/d"}})
    )
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={**os.environ, "REPLICATOR_STATE_DIR": str(tmp_path / "absent")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The rest of the output is a command's own; what is loaded is printed at the very end.
    names, _, number = ended.stdout.rpartition("loaded:")[2].partition("all:")
    assert (set(names.split()), int(number) <= most) == (loaded, True), f"{number} modules; {ended.stderr}"


def test_a_value_of_the_wrong_type_is_refused_with_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (["copy", "only-one"], "DESTINATION"),
        (["status", "--watch", "0"], "0.1"),
        (["serve", "--log-level", "loud"], "--log-level"),
        (["serve", "--concurrency", "many"], "--concurrency"),
    ):
        ended = CliRunner().invoke(app, arguments)
        assert ended.exit_code == 2
        assert says in ended.output.upper() + ended.output


def test_only_the_options_that_are_given_are_converted() -> None:
    command = load_command("copy")
    values = command.make_context("copy", ["h.example.com/a:1", "h.example.com/b:1", "--log", "file"]).params
    assert (values["log"], values["config"], values["signatures"]) == (Path("file"), None, False)
    converted = {each.name for each in command.params if each._runtime_param is not None}
    assert converted == {"source", "destination", "log", "overwrite"}, "overwrite has a default"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_a_commands_own_help_begins_with(name: str) -> None:
    command = load_command(name)
    assert " ".join((command.help or "").split("\n\n")[0].split()) == COMMANDS[name][1]
    assert command.name == name


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_in_a_commands_help_are_understood(name: str) -> None:
    for example in EXAMPLES[name]:
        words = shlex.split(example.partition(">")[0])
        command = load_command(words.pop(0))
        assert [command.name, *words][: len(name.split())] == name.split() or name == command.name
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        with command.make_context(name, words):
            pass


def _all_commands() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in COMMANDS:
        command = load_command(name)
        found |= {name: command} | {f"{name} {each}": sub for each, sub in getattr(command, "commands", {}).items()}
    return found


def test_every_command_and_subcommand_shows_examples() -> None:
    shown = _all_commands()
    assert set(shown) == set(EXAMPLES)
    for name, command in shown.items():
        assert command.epilog.startswith("Examples:\n\n  replicator "), name


def test_no_help_shows_a_type_of_python(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name, command in _all_commands().items():
        with command.make_context(name, [], resilient_parsing=True) as context:
            shown = command.get_help(context) + capsys.readouterr().out
        assert f"{context.command_path} [OPTIONS]" in shown
        assert not re.findall(r"<[\w ,|\[\]]+>|\{\w+", shown), name


def test_every_value_has_a_metavar_in_capitals_and_its_choices_in_the_help() -> None:
    for name, command in _all_commands().items():
        values = [each for each in command.params if not getattr(each, "is_flag", False)]
        for parameter in values:
            assert re.fullmatch(r"[A-Z]+[A-Z,.:/\[\]]*", parameter.metavar or ""), (name, parameter.name)
            for choice in parameter.type_descriptor.choices or ():
                assert re.search(rf"\b{getattr(choice, 'value', choice)}\b", parameter.help), (name, parameter.name)


def test_a_mistyped_command_is_answered_with_the_nearest_one() -> None:
    ended = CliRunner().invoke(app, ["statu"])
    assert ended.exit_code == 2
    assert "Did you mean 'status'?" in ended.output


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["schema"]])
def test_output_to_a_full_disk_is_told_and_a_failure(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "replicator", *arguments]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == "replicator: can't write the output: No space left on device\n"


@pytest.mark.parametrize("arguments", [["--help"], ["schema"]])
def test_a_reader_who_has_gone_is_no_reason_for_a_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "replicator", *arguments]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")
