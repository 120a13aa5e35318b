"""Backfills with image-syncer's files and command lines, between two registries, and the state they leave.

What is found out is plain data, so that a table of many rows can look at few runs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import aiohttp
import yaml

from tests.running import Ended, replicator
from tests.standins.acr import AcrStandIn
from tests.standins.distribution import reused_distribution, storage_of
from tests.standins.harbor import HarborStandIn
from tests.standins.logins import ACR_USER, HARBOR_ADMIN

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from tests.standins.faults import FaultLayer

SEED_COMMAND = (
    "--proc=10 --config=./harbor-to-acr.json --registry=ACR --namespace=image-syncer --retries=10 --log=./log"
)
"""As Alibaba Cloud's guide has it; ``ACR`` stands for the destination's host."""


@dataclass(frozen=True)
class Site:
    """A Harbor, an ACR of the Enterprise Edition, the registries behind them, and a directory."""

    harbor: HarborStandIn
    acr: AcrStandIn
    behind_harbor: str
    behind_acr: str
    directory: Path

    def named(self, text: str) -> str:
        """Put the hosts in for ``HARBOR`` and ``ACR``."""
        return text.replace("HARBOR", self.harbor.host).replace("ACR", self.acr.host)

    def auth(self) -> dict[str, Any]:
        """Everyone's logins, as image-syncer has them."""
        return {
            "HARBOR": {"username": HARBOR_ADMIN[0], "password": HARBOR_ADMIN[1], "insecure": True},
            "ACR": {"username": ACR_USER[0], "password": ACR_USER[1], "insecure": True},
        }

    def write(self, name: str, content: object) -> None:
        """Write a file, as YAML if it is called so, else as JSON; a text is written as it is."""
        text = content if isinstance(content, str) else _rendered(name, content)
        file = self.directory / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(self.named(text))

    async def backfill(self, command: str, where: str = ".", **settings: str) -> Ended:
        """Run ``replicator backfill`` in a folder of the directory, with a state of its own there."""
        folder = self.directory / where
        folder.mkdir(exist_ok=True, parents=True)
        return await replicator("backfill", *shlex.split(self.named(command)), cwd=folder, settings=settings)

    async def held(self) -> dict[str, str]:
        """Return what the destination holds: ``repository:tag`` with the digest that it names."""
        async with aiohttp.request("GET", f"http://{self.behind_acr}/v2/_catalog?n=1000") as answer:
            repositories = (await answer.json())["repositories"]
        storage = storage_of(self.behind_acr)
        assert storage is not None
        return {
            f"{repository}:{tag}": str(storage.digest(repository, tag))
            for repository in repositories
            for tag in storage.tags(repository) or ()
        }


@contextlib.asynccontextmanager
async def site(
    directory: Path,
    *,
    namespaces: Iterable[str] = ("image-syncer", "cache"),
    harbor_users: Mapping[str, str] | None = None,
    acr_users: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Site]:
    """Have both registries run; ``tls`` is what the destination speaks HTTPS with."""
    projects = {"library": True, "team": False, "teams": False}
    users = {**dict([HARBOR_ADMIN]), **(harbor_users or {})}
    async with contextlib.AsyncExitStack() as stack:
        behind_harbor, behind_acr = await asyncio.gather(
            stack.enter_async_context(reused_distribution()), stack.enter_async_context(reused_distribution())
        )
        harbor = await stack.enter_async_context(HarborStandIn(behind_harbor, users=users, projects=projects))
        acr = AcrStandIn(
            behind_acr,
            users={**dict([ACR_USER]), **(acr_users or {})},
            namespaces=dict.fromkeys(namespaces, True),
            personal=False,
            tls=tls,
        )
        await stack.enter_async_context(acr)
        yield Site(harbor, acr, behind_harbor, behind_acr, directory)


@dataclass(frozen=True)
class Login:
    """Who asked for a token to do something in a repository."""

    username: str
    password: str = field(repr=False)


def logins(layer: FaultLayer, action: str) -> dict[str, set[Login]]:
    """Return by repository who asked a token service for a token that lets do ``action``."""
    found: dict[str, set[Login]] = {}
    for entry in layer.log:
        scheme, _, value = entry.headers.get("Authorization", "").partition(" ")
        for repository, actions in re.findall(r"repository:([^:&]+):([a-z,]+)", unquote(entry.query)):
            if scheme == "Basic" and action in actions.split(","):
                username, _, password = base64.b64decode(value).decode().partition(":")
                found.setdefault(repository, set()).add(Login(username, password))
    return found


def _rendered(name: str, content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False) if name.endswith(".yaml") else json.dumps(content, indent=1)
