"""The README, followed word by word by a new user, keeps its promises.

The steps of its quick start are done from its own text, in its order: each file is written, each command is run by a
shell, and prints the lines that follow it. Only hosts with their ports and passwords are others. What is neither a file
nor a command that was run nor its output fails the test.

To install takes packages that are not on every machine, so those commands are compared with the Makefile's instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from replicator import __version__
from tests.docs.pages import ROOT, Block, blocks, code_spans, part_of
from tests.running import Serving, environment
from tests.standins.acr import AcrStandIn
from tests.standins.harbor import HarborStandIn
from tests.standins.images import image, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

README = ROOT / "README.md"
INSTALL = part_of(README, "1. Install")
USE = range(INSTALL.stop, part_of(README, "6. When a copy fails").stop)
WEBHOOK = "http://replicator.example.com:8080"
SERVE = "replicator serve --config rules.yaml"


def in_part(part: range) -> list[Block]:
    return [block for block in blocks() if block.page == README and block.line in part]


def lines(block: Block) -> list[str]:
    """The command lines of a block, whole."""
    return [line for line in block.text.replace("\\\n", "").splitlines() if line.strip()]


@dataclass
class Walk:
    """The steps of a user through the README, as far as they are done.

    Attributes:
        directory: where everything happens.
        environment: of every command.
        names: words of the README, and their replacements.
        left: files and commands that were not come to yet.
        done: the commands that were run.
    """

    directory: Path
    environment: dict[str, str]
    names: dict[str, str]
    left: list[tuple[str, str]]
    done: list[str] = field(default_factory=list)

    def next(self) -> tuple[str, str]:
        """Take the next step: a language, and a file's content or a command line."""
        language, text = self.left.pop(0)
        if language == "sh":
            self.done.append(text)
        for written, meant in self.names.items():
            text = text.replace(written, meant)
        return language, text

    async def until(self, end: str | None) -> dict[str, str]:
        """Do what comes before a command that begins like this, or all; return what each command said."""
        said: dict[str, str] = {}
        while self.left and not (end and self.left[0][1].startswith(end)):
            language, text = self.next()
            if language == "yaml":
                (self.directory / "rules.yaml").write_text(text)
            elif language == "text":
                self.compare(text, said[self.done[-1]])
            else:
                assert language == "sh", f"a block that is no command, no output and no rules file: {text}"
                said[self.done[-1]] = await self.run(text)
        return said

    def compare(self, shown: str, said: str) -> None:
        """Check that a command printed these lines; there columns may be wider, and … is anything."""
        printed = [" ".join(line.split()) for line in said.splitlines()]
        for line in shown.splitlines():
            wanted = ".*".join(map(re.escape, " ".join(line.split()).split("…")))
            assert any(re.fullmatch(wanted, each) for each in printed), f"not printed so: {line}\n{said}"

    async def run(self, command: str) -> str:
        """Run a command line to its end, with the administrator's password for whoever asks."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command),
            cwd=self.directory,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(60):
                said, _ = await process.communicate(f"{HARBOR_ADMIN[1]}\n".encode())
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        assert process.returncode == 0, f"{command}\n{said.decode()}"
        return said.decode()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Serving]:
        """Run the next command in the background; its address replaces the webhook's."""
        _, command = self.next()
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"exec {command}"),
            cwd=self.directory,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        serving = Serving(process)
        reading = asyncio.create_task(serving.read())
        try:
            await serving.until("listening")
            self.names[WEBHOOK] = serving.url
            # The walk's Harbor is on this machine too.
            self.names["webhook register"] = "webhook register --sidecar"
            yield serving
        finally:
            try:
                assert await serving.stop() == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await reading


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@dataclass(frozen=True)
class Ends:
    """A Harbor and an ACR that speak HTTPS, and what is behind them."""

    harbor: HarborStandIn
    acr: AcrStandIn
    behind_harbor: str
    behind_acr: str


@pytest.fixture
async def ends(tls: ssl.SSLContext, harbor_upstream: str, acr_upstream: str) -> AsyncIterator[Ends]:
    users = dict([HARBOR_ADMIN, HARBOR_ROBOT])
    namespaces = {"image-syncer": True, "team-mirror": True}
    async with (
        HarborStandIn(harbor_upstream, users=users, projects={"library": True, "team": False}, tls=tls) as harbor,
        AcrStandIn(acr_upstream, users=dict([ACR_USER]), namespaces=namespaces, tls=tls) as acr,
    ):
        yield Ends(harbor, acr, harbor_upstream, acr_upstream)
        assert harbor.leaks == []
        assert acr.leaks == []


def steps(found: Iterable[Block]) -> list[tuple[str, str]]:
    """The files and command lines of some blocks, in their order."""
    return [
        (block.language, text) for block in found for text in (lines(block) if block.language == "sh" else [block.text])
    ]


@pytest.fixture
def walk(ends: Ends, authority: trustme.CA, tmp_path: Path) -> Iterator[Walk]:
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    directory = tmp_path / "work"
    directory.mkdir()
    # A user's own; its path must leave room for a socket's name.
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as home:
        variables = {name: value for name, value in environment().items() if not name.startswith("REPLICATOR_")}
        variables |= {
            "HOME": home,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SSL_CERT_FILE": str(trusted),
            "REPLICATOR_LISTEN": "127.0.0.1:0",
        }
        variables.pop("XDG_STATE_HOME", None)
        names = {"harbor.example.com": ends.harbor.host, "registry.cn-beijing.aliyuncs.com": ends.acr.host}
        yield Walk(directory, variables, names, steps(in_part(USE)))


async def test_the_readme_from_init_to_the_first_push_and_the_backfill(walk: Walk, ends: Ends) -> None:
    older, newer, pushed = image(1), image(2), multi_arch(3)
    await push(ends.behind_harbor, "library/nginx", "1.26", older)
    await push(ends.behind_harbor, "library/nginx", "1.27", newer)
    await push(ends.behind_harbor, "team/app/api", "v1.4.0", image(4))

    assert await walk.until("replicator init") == {}
    _, command = walk.next()
    said = await walk.run(command)
    _, shown = walk.next()
    walk.compare(shown, said)
    passwords = walk.directory / ".env"
    text = passwords.read_text()
    for name, (_, password) in {"HARBOR_PASSWORD": HARBOR_ROBOT, "ACR_PASSWORD": ACR_USER}.items():
        assert f"{name}=''" in text
        text = text.replace(f"{name}=''", f"{name}='{password}'")
    passwords.write_text(text)
    # What init wrote is no less than a start.
    await walk.run("replicator check --config rules.yaml")

    before = await walk.until(SERVE)
    (explained,) = [said for command, said in before.items() if "explain" in command]
    assert "team-mirror/team-app-api:v1.5.0" in explained
    async with walk.running() as serving:
        told = await walk.until("replicator backfill")
        assert "created" in told[next(command for command in told if "webhook register" in command)]
        assert sorted(policy.project for policy in ends.harbor.webhooks.policies.values()) == ["library", "team"]
        async with serve(ends.harbor.faults) as plain:
            await push(plain, "team/app/api", "v1.5.0", pushed, HARBOR_ROBOT)
        await serving.until("webhook taken", level="info")
        await serving.until("copy done", destination=f"{ends.acr.host}/team-mirror/team-app-api:v1.5.0")
        await verify_tree(ends.behind_acr, "team-mirror/team-app-api", "v1.5.0", pushed)
        await walk.until(None)

    rows = json.loads((walk.directory / "report.json").read_text())
    assert sorted(row["source"].partition("/")[2] for row in rows) == [
        "library/nginx:1.26",
        "library/nginx:1.27",
        "team/app/api:v1.4.0",
        "team/app/api:v1.5.0",
    ]
    assert {row["outcome"] for row in rows} <= {"copied", "up to date"}
    await verify_tree(ends.behind_acr, "image-syncer/nginx", "1.26", older)
    await verify_tree(ends.behind_acr, "image-syncer/nginx", "1.27", newer)
    written_down = [line for block in in_part(USE) if block.language == "sh" for line in lines(block)]
    assert walk.done == written_down
    assert {command.split()[1] for command in walk.done} >= {"init", "explain", "check", "serve", "backfill", "copy"}


@pytest.mark.parametrize("part", [INSTALL, USE], ids=["install", "use"])
def test_commands_that_are_run_stand_in_blocks(part: range) -> None:
    # A command in the middle of a sentence would be passed over; there it may only be named.
    named = [span for span in code_spans(README, part) if re.match(r"(?:replicator|sudo|curl|pip|export) ", span)]
    assert {len(span.split()) for span in named} <= {2}, named
    ran = {tuple(text.split()[:2]) for language, text in steps(in_part(USE)) if language == "sh"}
    assert {tuple(span.split()) for span in named} <= ran


def test_to_install_is_what_developers_do() -> None:
    commands = [text for language, text in steps(in_part(INSTALL)) if language == "sh"]
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
