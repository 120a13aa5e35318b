from __future__ import annotations

import json
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from replicator.queue import Queue
from tests.queue.servers import RedisServer
from tests.running import Serving, running
from tests.server.page.seeding import ACR, HARBOR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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
    """A serve without a worker, its Redis, and the queue in it."""

    directory: Path
    redis: RedisServer
    queue: Queue
    serving: Serving

    @property
    def url(self) -> str:
        return f"{self.serving.url}/"

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


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as server:
        yield server


@asynccontextmanager
async def served(directory: Path, redis: RedisServer, **settings: str) -> AsyncIterator[Serving]:
    """Have serve run without a worker."""
    (directory / "rules.json").write_text(json.dumps(RULES))
    known = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_STATUS_TOKEN": PASSWORD, **settings}
    rules = directory / "rules.json"
    async with running("serve", "--no-worker", "--config", rules, cwd=directory, settings=known) as serving:
        yield serving


@pytest.fixture
async def site(tmp_path: Path, redis: RedisServer) -> AsyncIterator[Site]:
    async with await Queue.connect(redis.url) as queue, served(tmp_path, redis) as serving:
        yield Site(tmp_path, redis, queue, serving)
