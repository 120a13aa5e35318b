"""The README, followed word by word by a new user, keeps its promises.

The steps of its quick start are done from its own text, in its order: each file is written, each command is run by a
shell, and prints the lines that follow it. Only hosts with their ports and passwords are others. What is neither a file
nor a command that was run nor its output fails the test. `tests.docs.test_languages` shows that the README in Chinese
has the same steps, and `make image-check` walks through both with the container image.

To install takes packages that are not on every machine, so those commands are compared with the Makefile's instead.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator import __version__
from tests.docs.pages import ROOT, code_spans
from tests.docs.walk import ENGLISH, Walk, follow, lines, steps, two_ends
from tests.running import environment

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home() -> Iterator[str]:
    """A user's own; its path must leave room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory:
        yield directory


async def test_the_readme_from_init_to_the_first_push_and_the_backfill(
    harbor_upstream: str, acr_upstream: str, home: str, tmp_path: Path
) -> None:
    directory = tmp_path / "work"
    directory.mkdir()
    trusted = tmp_path / "authority.pem"
    variables = {name: value for name, value in environment().items() if not name.startswith("REPLICATOR_")}
    variables |= {
        "HOME": home,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SSL_CERT_FILE": str(trusted),
        "REPLICATOR_LISTEN": "127.0.0.1:0",
    }
    variables.pop("XDG_STATE_HOME", None)
    async with two_ends(harbor_upstream, acr_upstream) as ends:
        ends.authority.cert_pem.write_to_path(str(trusted))
        walk = Walk(directory, variables, ends.names, steps(ENGLISH.blocks(ENGLISH.use)))
        await follow(walk, ends)
    written_down = [line for block in ENGLISH.blocks(ENGLISH.use) if block.language == "sh" for line in lines(block)]
    assert walk.done == written_down
    assert {command.split()[1] for command in walk.done} >= {"init", "explain", "check", "serve", "backfill", "copy"}


@pytest.mark.parametrize("part", [ENGLISH.install, ENGLISH.use], ids=["install", "use"])
def test_commands_that_are_run_stand_in_blocks(part: range) -> None:
    # A command in the middle of a sentence would be passed over; there it may only be named.
    named = [span for span in code_spans(ENGLISH.page, part) if re.match(r"(?:replicator|sudo|curl|pip|export) ", span)]
    assert {len(span.split()) for span in named} <= {2}, named
    ran = {tuple(text.split()[:2]) for language, text in steps(ENGLISH.blocks(ENGLISH.use)) if language == "sh"}
    assert {tuple(span.split()) for span in named} <= ran


def test_to_install_is_what_developers_do() -> None:
    commands = [text for language, text in steps(ENGLISH.blocks(ENGLISH.install)) if language == "sh"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\nimage: " in makefile
    (installs,) = re.findall(r"^\t\$\(BIN\)/(pip install .*constraints.*)$", makefile, re.MULTILINE)
    plain = re.sub(r" --quiet| --editable", "", installs)
    plain = re.sub(r"'\.\[.*\]'", ".", plain)
    assert commands[0] == "make image"
    assert f"replicator:{__version__}" in commands[1]
    assert commands[3:] == [
        "sudo python3 -m venv /opt/replicator",
        f"sudo /opt/replicator/bin/{plain}",
        "sudo ln -s /opt/replicator/bin/replicator /usr/local/bin/replicator",
    ]
    assert (ROOT / "constraints.txt").is_file()
