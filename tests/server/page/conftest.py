from __future__ import annotations

import asyncio
import contextlib
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from replicator.queue import LoadedConfig, Queue, announced
from replicator.queue.traffic import Arrivals
from replicator.rules import parse
from replicator.server.app import Readiness, Webhook, create_app
from replicator.server.auth import PageAuth, WebhookAuth
from replicator.server.http import Server, listen
from replicator.server.page import StatusPage
from tests.queue.conftest import own_server, prefix, queue, server, short_dir
from tests.running import TOKEN, Serving, running
from tests.server.page.browser import Browser
from tests.server.page.seeding import ACR, HARBOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from yarl import URL

    from tests.queue.servers import RedisServer

__all__ = ["own_server", "prefix", "queue", "server", "short_dir"]

PASSWORD = "status-token-of-the-tests"
RULES = {
    "auth": {HARBOR: {"anonymous": True}, ACR: {"username": "u", "password": "acr-password", "endpoint": "192.0.2.1"}},
    "images": {
        f"{HARBOR}/team/**": f"{ACR}/mirror/{{flat}}",
        f"{HARBOR}/base/**": f"{ACR}/base/{{flat}}",
    },
}


@dataclass(frozen=True)
class Answer:
    """An answer of the page's: status, headers, body."""

    status: int
    headers: Any
    text: str


@dataclass
class Site:
    """The page, served by the tests' own process, and the queue that it shows."""

    queue: Queue
    address: str
    server: Server

    @property
    def url(self) -> str:
        return f"http://{self.address}/"

    async def get(self, query: str = "", *, password: str | None = PASSWORD, **headers: str) -> Answer:
        return await ask(self.url + query, password=password, headers=headers)

    async def post(self, form: dict[str, str], query: str = "", **headers: str) -> Answer:
        return await ask(self.url + query, password=PASSWORD, headers=headers, form=form)


async def ask(
    url: str, *, password: str | None, headers: dict[str, str] | None = None, form: dict[str, str] | None = None
) -> Answer:
    """Ask for the page, or send it a form, as a person with a password."""
    login = {} if password is None else {"Authorization": aiohttp.encode_basic_auth("anyone", password)}
    async with (
        aiohttp.ClientSession(headers=login) as session,
        session.request(
            "GET" if form is None else "POST", url, data=form, headers=headers, allow_redirects=False
        ) as answer,
    ):
        return Answer(answer.status, answer.headers, await answer.text())


@asynccontextmanager
async def shown(queue: Queue) -> AsyncIterator[Site]:
    """Serve the page of a queue as ``serve`` does."""
    rules = parse(json.dumps(RULES), "rules.json", environ={})
    arrivals = Arrivals(queue)
    webhook = Webhook(rules, queue, WebhookAuth(TOKEN), lambda *_: None, heard=arrivals.note)
    page = StatusPage(queue, rules, PageAuth(PASSWORD))
    app = create_app(webhook, Readiness(queue, list), metrics=None, more=page.routes())
    listening: asyncio.Future[URL] = asyncio.get_running_loop().create_future()
    server = Server(app, listening.set_result)
    with contextlib.closing(listen("127.0.0.1:0", "REPLICATOR_LISTEN")) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with announced(queue, "serve", "1.0", lambda: LoadedConfig(time.time(), None)):
            yield Site(queue, (await listening).authority, server)
        server.should_exit = True
        await serving
    await arrivals.aclose()


@pytest.fixture
async def site(queue: Queue) -> AsyncIterator[Site]:
    async with shown(queue) as site:
        yield site


@pytest.fixture
async def own_site(own_server: RedisServer) -> AsyncIterator[Site]:
    """One whose Redis the test may stop."""
    async with await Queue.connect(own_server.url) as queue, shown(queue) as site:
        yield site


@asynccontextmanager
async def served(directory: Path, redis: RedisServer, **settings: str) -> AsyncIterator[Serving]:
    """Have a real serve run, without a worker."""
    (directory / "rules.json").write_text(json.dumps(RULES))
    known = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_STATUS_TOKEN": PASSWORD, **settings}
    rules = directory / "rules.json"
    async with running("serve", "--no-worker", "--config", rules, cwd=directory, settings=known) as serving:
        yield serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser
