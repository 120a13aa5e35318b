"""Token and Basic authentication in front of a handler, with the oddities of real registries."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from tests.standins.server import Handler

USER, PASSWORD = "pusher", "s3cret-word"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class Guard:
    """A handler that accepts only its own tokens.

    Attributes:
        handler: what is guarded.
        realm: of its challenges, e.g. ``http://127.0.0.1:PORT/token``.
        life: ``expires_in`` of its tokens; None leaves it out.
        basic_after_bearer: answer a rejected token with a Basic challenge, as Harbor does.
        key: under which a token is handed out.
        anonymous: give tokens to who has no login.
    """

    handler: Handler
    realm: str = ""
    life: int | None = 300
    basic_after_bearer: bool = False
    key: str = "token"
    anonymous: bool = False
    valid: dict[str, str] = field(default_factory=dict)
    issued: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)

    def revoke(self) -> None:
        """Refuse every token handed out so far."""
        self.valid.clear()

    async def token(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer as the token endpoint."""
        if request.headers.get("Authorization") != BASIC and not self.anonymous:
            return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}, status=401)
        value = f"token-{next(self._numbers)}"
        scopes = " ".join(request.query.getall("scope", []))
        self.issued.append(scopes)
        self.valid[value] = scopes
        answer: dict[str, Any] = {self.key: value}
        if self.life is not None:
            answer["expires_in"] = self.life
        return web.json_response(answer)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        _, _, token = authorization.partition("Bearer ")
        if token in self.valid:
            return await self.handler(request)
        challenge = f'Bearer realm="{self.realm}",service="registry, of many",scope="repository:x:pull"'
        if token and self.basic_after_bearer:
            challenge = 'Basic realm="harbor"'
        return web.json_response(
            {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
            status=401,
            headers={"WWW-Authenticate": challenge},
        )


async def only_basic(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
    """Pass requests with the right HTTP Basic login to ``handler``."""
    if request.headers.get("Authorization") == BASIC:
        return await handler(request)
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="registry"'})
