"""The API in the tests' own process, with a real Redis; the registries answer from a table."""

from __future__ import annotations

import json
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from replicator.copy import Comparison, Result
from replicator.queue import Observations, Queue
from replicator.rules import parse
from replicator.server.api import Api
from replicator.server.api.images import Images
from replicator.server.app import Readiness, Webhook, create_app
from replicator.server.auth import ApiAuth, PageAuth, Scope, WebhookAuth
from tests.queue.conftest import PATIENCE, own_server, prefix, queue, server, short_dir

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

    from replicator.copy import Copier
    from replicator.reference import Reference

__all__ = ["own_server", "prefix", "queue", "server", "short_dir"]

HARBOR, ACR = "harbor.example.com", "acr.example.com"
READ, OPERATE, PASSWORD = "read-token-of-the-tests", "operate-token-of-the-tests", "status-token-of-the-tests"
ONE, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
RULES = {
    "auth": {HARBOR: {"anonymous": True}, ACR: {"anonymous": True}},
    "images": {f"{HARBOR}/lib/**": [f"{ACR}/mirror/{{name}}", f"{ACR}/second/{{name}}"]},
}


@dataclass
class Registries:
    """Stands for both registries: what the source's tags and the destinations' tags name."""

    source: str = ONE
    destination: str | None = None
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None
    selections: dict[str, Any] = field(default_factory=dict)
    gate: asyncio.Event | None = None

    @property
    def registries(self) -> Any:
        return self

    async def compare(self, _: Reference, destination: Reference, *__: Any, **___: Any) -> Comparison:
        self.asked.append(str(destination))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.source == self.destination:
            return Comparison(Result.UP_TO_DATE, self.source, self.source)
        return Comparison(None, self.source, None, present=self.destination)

    @property
    def refused(self) -> Any:
        return self

    async def skipped(self, *_: str) -> str:
        return ""


@dataclass
class Site:
    """The API, and what is behind it."""

    queue: Queue
    checks: Observations
    registries: Registries
    images: Images
    app: ASGIApp

    async def ask(self, method: str, path: str, token: str | None = READ, **more: Any) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            return await client.request(method, f"/api/v1{path}", headers=headers | more.pop("headers", {}), **more)


@asynccontextmanager
async def served(queue: Queue, auth: ApiAuth | None = None) -> AsyncIterator[Site]:
    if auth is None:
        auth = ApiAuth(((Scope.READ, READ), (Scope.OPERATE, OPERATE)), PageAuth(PASSWORD))
    rules = parse(json.dumps(RULES), "rules.json", environ={})
    webhook = Webhook(rules, queue, WebhookAuth("token"), lambda *_: None)
    async with aclosing(Observations(queue, deadline=PATIENCE, pause=0)) as checks:
        registries = Registries()
        images = Images(queue, cast("Copier", registries), checks, rules)
        api = Api(queue, images, rules, auth)
        app = create_app(webhook, Readiness(queue, list), metrics=None, more=api.routes())
        yield Site(queue, checks, registries, images, app)


@pytest.fixture
async def site(queue: Queue) -> AsyncIterator[Site]:
    async with served(queue) as site:
        yield site
