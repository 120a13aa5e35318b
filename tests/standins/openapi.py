"""Alibaba Cloud's OpenAPI, as far as it gives out logins for ACR."""

from __future__ import annotations

import time

from aiohttp import web

from tests.standins.faults import FaultLayer


class OpenApiStandIn:
    """Gives out logins in both versions; serve its ``faults``.

    Attributes:
        seconds: how long a login lasts.
        given: how many were given out.
        asked: version and instance id of each request.
    """

    def __init__(self, seconds: float = 3600.0) -> None:
        self.seconds = seconds
        self.given = 0
        self.asked: list[tuple[str, str]] = []
        self.faults = FaultLayer(self._answer)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        version = request.headers.get("x-acs-version", "")
        self.asked.append((version, request.query.get("InstanceId", "")))
        if not request.headers.get("authorization", "").startswith("ACS3-HMAC-SHA256 Credential=key-id,"):
            return web.json_response({"Code": "InvalidAccessKeyId.NotFound", "Message": "not found"}, status=404)
        self.given += 1
        name, token, expires = "cr_temp_user", f"temporary-{self.given}", int((time.time() + self.seconds) * 1000)
        if version == "2016-06-07" and (request.method, request.path) == ("GET", "/tokens"):
            data = {"tempUserName": name, "authorizationToken": token, "expireDate": expires}
            return web.json_response({"data": data, "requestId": "1"})
        return web.json_response({"TempUsername": name, "AuthorizationToken": token, "ExpireTime": expires})
