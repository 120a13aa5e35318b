"""A stand-in for a receiver of CloudEvents: it takes what is signed (Standard Webhooks), as its own code verifies."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEY = b"a-key-of-the-tests-of-32-bytes!!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
PATH = "/events/token-of-the-tests"


class EventReceiver:
    """What it was sent.

    Attributes:
        host: ``127.0.0.1:PORT``.
        taken: the events it took, as JSON, in this order.
        ids: the ``webhook-id`` of each.
        requests: the subjects of all requests.
        times: when each was taken (`time.monotonic`).
        refuse: returns a status to refuse an event with; None to take it.
        gate: requests wait at it, once they are noted.
        most: the most requests at the same time.
    """

    def __init__(self) -> None:
        self.host = ""
        self.taken: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.requests: list[str] = []
        self.times: list[float] = []
        self.refuse: Callable[[dict[str, Any]], int | None] = lambda _: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.most = 0
        self._present = 0

    @property
    def address(self) -> str:
        """What REPLICATOR_EVENTS_URL says of it."""
        return f"http://{self.host}{PATH}#{SECRET}"

    @property
    def told(self) -> list[tuple[str, str]]:
        """Type and subject of what it took."""
        return [(event["type"], event["subject"]) for event in self.taken]

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take an event."""
        body = await request.read()
        event, headers = json.loads(body), request.headers
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["Content-Type"] == "application/cloudevents+json"
        if request.path != PATH or headers["webhook-signature"] != expected or event["id"] != headers["webhook-id"]:
            return web.Response(status=401)
        if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
            return web.Response(status=400)
        self.requests.append(event["subject"])
        self._present += 1
        self.most = max(self.most, self._present)
        try:
            if (status := self.refuse(event)) is not None:
                more = {302: {"Location": "/elsewhere"}, 429: {"Retry-After": "60"}}
                return web.Response(status=status, headers=more.get(status))
            self.taken.append(event)
            self.ids.append(headers["webhook-id"])
            self.times.append(time.monotonic())
            await self.gate.wait()
            return web.Response(status=204)
        finally:
            self._present -= 1


@asynccontextmanager
async def event_receiver() -> AsyncIterator[EventReceiver]:
    """Have a receiver run."""
    receiver = EventReceiver()
    async with serve(receiver) as host:
        receiver.host = host
        yield receiver
