"""A new user's walk through a README: its commands, files and outputs, in their order, between two stand-ins.

Only hosts with their ports and passwords are others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trustme

from tests.docs.pages import ROOT, Block, blocks, part_of
from tests.running import Serving
from tests.standins.acr import AcrStandIn
from tests.standins.harbor import HarborStandIn
from tests.standins.images import image, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

WEBHOOK = "http://replicator.example.com:8080"
SERVE = "replicator serve --config rules.yaml"
Until = Callable[..., Awaitable[object]]
"""Waits until an event was logged, with these values."""


@dataclass(frozen=True)
class Readme:
    """The quick start of a README.

    Attributes:
        page: the file.
        first: the heading of its first step, to install.
        last: that of its last step.
    """

    page: Path
    first: str
    last: str

    @property
    def install(self) -> range:
        """The lines of the first step."""
        return part_of(self.page, self.first)

    @property
    def use(self) -> range:
        """The lines of the other steps."""
        return range(self.install.stop, part_of(self.page, self.last).stop)

    def blocks(self, part: range) -> list[Block]:
        """The code blocks in some lines."""
        return [block for block in blocks() if block.page == self.page and block.line in part]


ENGLISH = Readme(ROOT / "README.md", "1. Install", "6. When a copy fails")
CHINESE = Readme(ROOT / "README.zh-CN.md", "1. 安装", "6. 同步失败时")


def lines(block: Block) -> list[str]:
    """The command lines of a block, whole."""
    return [line for line in block.text.replace("\\\n", "").splitlines() if line.strip()]


def steps(found: Iterable[Block]) -> list[tuple[str, str]]:
    """The files and command lines of some blocks, in their order."""
    return [
        (block.language, text) for block in found for text in (lines(block) if block.language == "sh" else [block.text])
    ]


@dataclass(frozen=True)
class Ends:
    """A Harbor and an ACR that speak HTTPS, and the registries behind them.

    Attributes:
        authority: the issuer of their certificates.
    """

    harbor: HarborStandIn
    acr: AcrStandIn
    behind_harbor: str
    behind_acr: str
    authority: trustme.CA

    @property
    def names(self) -> dict[str, str]:
        """The README's hosts, and these."""
        return {"harbor.example.com": self.harbor.host, "registry.cn-beijing.aliyuncs.com": self.acr.host}


@asynccontextmanager
async def two_ends(behind_harbor: str, behind_acr: str) -> AsyncIterator[Ends]:
    """Run a Harbor and an ACR with the projects, namespaces and users of the README, before two registries."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    users = dict([HARBOR_ADMIN, HARBOR_ROBOT])
    namespaces = {"image-syncer": True, "team-mirror": True}
    async with (
        HarborStandIn(behind_harbor, users=users, projects={"library": True, "team": False}, tls=tls) as harbor,
        AcrStandIn(behind_acr, users=dict([ACR_USER]), namespaces=namespaces, tls=tls) as acr,
    ):
        yield Ends(harbor, acr, behind_harbor, behind_acr, authority)
        assert harbor.leaks == []
        assert acr.leaks == []


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
        """Run a command line to its end, with the administrator's password for every prompt."""
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
    async def running(self) -> AsyncIterator[Until]:
        """Run the next command in the background; its address replaces the webhook's. Yield how to wait for its log."""
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
            self.webhook_at(serving.url)
            yield serving.until
        finally:
            try:
                assert await serving.stop() == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await reading

    def webhook_at(self, url: str) -> None:
        """From now on, the webhook's address is this one of this machine, where the walk's Harbor is too."""
        self.names[WEBHOOK] = url
        self.names["webhook register"] = "webhook register --sidecar"


async def follow(walk: Walk, ends: Ends) -> None:
    """Walk from init to the first push and the backfill, and check what arrives."""
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
    async with walk.running() as until:
        told = await walk.until("replicator backfill")
        assert "created" in told[next(command for command in told if "webhook register" in command)]
        assert sorted(policy.project for policy in ends.harbor.webhooks.policies.values()) == ["library", "team"]
        async with serve(ends.harbor.faults) as plain:
            await push(plain, "team/app/api", "v1.5.0", pushed, HARBOR_ROBOT)
        await until("webhook taken")
        await until("copy done", destination=f"{ends.acr.host}/team-mirror/team-app-api:v1.5.0")
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
