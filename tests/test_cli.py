"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from replicator.cli import app

HEAVY = (
    "replicator.queue",
    "replicator.rules",
    "replicator.registry",
    "replicator.backfill",
    "arq",
    "redis",
    "starlette",
)


@pytest.mark.parametrize(
    ("module", "loads"),
    [
        ("replicator.cli", ()),
        ("replicator.foreground", ("replicator.registry",)),
    ],
)
def test_a_copy_of_one_image_loads_neither_queue_nor_web_server_nor_rules(module: str, loads: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert tuple(ended.stdout.split()) == loads


def test_commands_stand_in_the_order_in_which_they_are_needed() -> None:
    commands = list(typer.main.get_group(app).commands)
    assert commands == [
        "init",
        "convert",
        "serve",
        "worker",
        "backfill",
        "copy",
        "explain",
        "schema",
        "check",
        "health",
        "status",
        "failures",
        "webhook",
    ]
