"""The command line as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.commands import COMMANDS, load_command

HEAVY = (
    "replicator.queue",
    "replicator.rules",
    "replicator.registry",
    "replicator.replication.backfill",
    "arq",
    "redis",
    "starlette",
)


@pytest.mark.parametrize(
    ("module", "loads"),
    [
        ("replicator.commands", ()),
        ("replicator.commands.copy", ("replicator.registry",)),
    ],
)
def test_a_copy_of_one_image_loads_neither_queue_nor_web_server_nor_rules(module: str, loads: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert tuple(ended.stdout.split()) == loads


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_a_commands_own_help_begins_with(name: str) -> None:
    command = load_command(name)
    assert " ".join((command.help or "").split("\n\n")[0].split()) == COMMANDS[name][1]
    assert command.name == name


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["schema"]])
def test_output_to_a_full_disk_is_told_and_a_failure(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "replicator", *arguments]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == "replicator: what it says can't be written: No space left on device\n"


@pytest.mark.parametrize("arguments", [["--help"], ["schema"]])
def test_a_reader_who_has_gone_is_no_reason_for_a_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "replicator", *arguments]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")
