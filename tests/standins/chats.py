"""Stand-ins for the webhooks of DingTalk, Feishu, WeCom and Slack, and for a plain receiver.

Each checks what it is sent as the service does, and answers as it does: DingTalk, Feishu and WeCom refuse with a 200.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from multidict import CIMultiDict

DINGTALK_TOKEN = "dingtalk-token-of-the-tests"
DINGTALK_SECRET = "SECof+the/tests"
FEISHU_TOKEN = "feishu-token-of-the-tests"
FEISHU_SECRET = "feishu-secret-of-the-tests"
WECOM_KEY = "wecom-key-of-the-tests"
SLACK_PATH = "/services/T0/B0/slack-token-of-the-tests"
JSON_PATH = "/alerts/json-token-of-the-tests"
BEARER = "bearer-of-the-tests"
SECRETS = (
    DINGTALK_TOKEN,
    DINGTALK_SECRET,
    FEISHU_TOKEN,
    FEISHU_SECRET,
    WECOM_KEY,
    "slack-token-of-the-tests",
    "json-token-of-the-tests",
    BEARER,
)
_HOUR = 3600


def _hmac(key: str, text: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), text.encode(), hashlib.sha256)).decode()


class Chats:
    """What the robots were sent.

    Attributes:
        host: where all of them are, ``127.0.0.1:PORT``.
        taken: the messages they took, a text each; of the plain receiver its JSON.
        requests: path, headers and body of every request.
        faults: answer the next requests instead.
    """

    def __init__(self) -> None:
        self.host = ""
        self.taken: list[Any] = []
        self.requests: list[tuple[str, CIMultiDict[str], bytes]] = []
        self.faults: list[Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]] = []
        self._news = asyncio.Condition()

    @property
    def dingtalk(self) -> str:
        return f"dingtalk+http://{self.host}/robot/send?access_token={DINGTALK_TOKEN}#{DINGTALK_SECRET}"

    @property
    def feishu(self) -> str:
        return f"feishu+http://{self.host}/open-apis/bot/v2/hook/{FEISHU_TOKEN}#{FEISHU_SECRET}"

    @property
    def wecom(self) -> str:
        return f"wecom+http://{self.host}/cgi-bin/webhook/send?key={WECOM_KEY}"

    @property
    def slack(self) -> str:
        return f"slack+http://{self.host}{SLACK_PATH}"

    @property
    def plain(self) -> str:
        return f"http://{self.host}{JSON_PATH}#{BEARER}"

    @property
    def all(self) -> str:
        return "\n".join([self.dingtalk, self.feishu, self.wecom, self.slack, self.plain])

    async def until(self, count: int, timeout: float = 30) -> list[Any]:
        """Wait until so many messages were taken."""
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: len(self.taken) >= count)
        return self.taken

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take one message."""
        body = await request.read()
        self.requests.append((request.path, request.headers.copy(), body))
        if self.faults:
            return await self.faults.pop(0)(request)
        assert request.method == "POST"
        assert request.headers["Content-Type"].startswith("application/json")
        fields = json.loads(body)
        answers = {
            "/robot/send": self._dingtalk,
            f"/open-apis/bot/v2/hook/{FEISHU_TOKEN}": self._feishu,
            "/cgi-bin/webhook/send": self._wecom,
            SLACK_PATH: self._slack,
            JSON_PATH: self._plain,
        }
        if request.path not in answers:
            return web.Response(status=404)
        taken, answer = answers[request.path](request, fields, len(body))
        async with self._news:
            self.taken += [] if taken is None else [taken]
            self._news.notify_all()
        return answer

    def _dingtalk(self, request: web.BaseRequest, fields: dict[str, Any], size: int) -> tuple[Any, web.Response]:
        def answer(code: int, words: str = "ok") -> web.Response:
            return web.json_response({"errcode": code, "errmsg": words})

        timestamp = request.query.get("timestamp", "0")
        if request.query.get("access_token") != DINGTALK_TOKEN:
            return None, answer(300005, "token is not exist")
        if request.query.get("sign") != _hmac(DINGTALK_SECRET, f"{timestamp}\n{DINGTALK_SECRET}"):
            return None, answer(310000, f"sign not match, secret {DINGTALK_SECRET}")
        if abs(time.time() * 1000 - int(timestamp)) > _HOUR * 1000:
            return None, answer(310000, "invalid timestamp")
        if size > 20_000 or fields["msgtype"] != "text" or fields["at"] != {"isAtAll": False}:
            return None, answer(400101, "bad message")
        return fields["text"]["content"], answer(0)

    def _feishu(self, _: web.BaseRequest, fields: dict[str, Any], size: int) -> tuple[Any, web.Response]:
        timestamp = fields.get("timestamp", "0")
        signed = fields.get("sign") == _hmac(f"{timestamp}\n{FEISHU_SECRET}", "")
        if not signed or abs(time.time() - int(timestamp)) > _HOUR:
            return None, web.json_response({"code": 19021, "msg": "sign match fail or timestamp is not within an hour"})
        post = fields["content"]["post"]["zh_cn"]
        parts = [part for line in post["content"] for part in line]
        if size > 20 * 1024 or fields["msg_type"] != "post" or {part["tag"] for part in parts} != {"text"}:
            return None, web.json_response({"code": 9499, "msg": "Bad Request"})
        text = "\n".join([post["title"], *(part["text"] for part in parts)])
        return text, web.json_response({"code": 0, "msg": "success", "data": {}})

    def _wecom(self, request: web.BaseRequest, fields: dict[str, Any], _: int) -> tuple[Any, web.Response]:
        if request.query.get("key") != WECOM_KEY:
            return None, web.json_response({"errcode": 93000, "errmsg": "invalid webhook url"})
        content = fields["text"]["content"]
        if fields["msgtype"] != "text" or len(content.encode()) > 2048 or set(fields["text"]) != {"content"}:
            return None, web.json_response({"errcode": 40058, "errmsg": "content exceed max length 2048"})
        return content, web.json_response({"errcode": 0, "errmsg": "ok"})

    def _slack(self, _: web.BaseRequest, fields: dict[str, Any], __: int) -> tuple[Any, web.Response]:
        text = fields["text"]
        # What is no entity is control: a mention, a link.
        if set(fields) != {"text"} or re.search(r"[<>]|&(?!(?:amp|lt|gt);)", text) or len(text) > 4000:
            return None, web.Response(status=400, text="invalid_payload")
        return text, web.Response(text="ok")

    def _plain(self, request: web.BaseRequest, fields: dict[str, Any], _: int) -> tuple[Any, web.Response]:
        if request.headers.get("Authorization") != f"Bearer {BEARER}":
            return None, web.Response(status=401)
        return fields, web.Response(status=204)


@asynccontextmanager
async def chats() -> AsyncIterator[Chats]:
    """Have all robots run."""
    robots = Chats()
    async with serve(robots) as host:
        robots.host = host
        yield robots


def answering(
    status: int, body: str = "", headers: Mapping[str, str] | None = None
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """A fault: an answer of another kind."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers=headers)

    return answer


async def stalling(_: web.BaseRequest) -> web.StreamResponse:
    """A fault: never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    """A fault: an answer without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def dropping(request: web.BaseRequest) -> web.StreamResponse:
    """A fault: the connection ends in the middle."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
