"""The sources of Alibaba Cloud's default credentials chain: ECS metadata, STS, and a proxy to both."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.server import Handler

ROLE = "replicator-role"


def _temporary(key: str) -> dict[str, str]:
    end = datetime.now(UTC) + timedelta(hours=1)
    return {
        "AccessKeyId": key,
        "AccessKeySecret": f"secret-of-{key}",
        "SecurityToken": f"token-of-{key}",
        "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


class Metadata:
    """The metadata service of an ECS with a RAM role, in front of another handler for all that is not for it."""

    def __init__(self, behind: Handler) -> None:
        self._behind = behind

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.host != "100.100.100.200":
            return await self._behind(request)
        if (request.method, request.path) == ("PUT", "/latest/api/token"):
            return web.Response(text="metadata-token")
        if request.headers.get("X-aliyun-ecs-metadata-token") != "metadata-token":
            return web.Response(status=403)
        roles = "/latest/meta-data/ram/security-credentials/"
        if request.path == roles:
            return web.Response(text=ROLE)
        if request.path == roles + ROLE:
            return web.json_response({"Code": "Success", **_temporary("ecs-key")})
        return web.Response(status=404)


async def sts(request: web.BaseRequest) -> web.StreamResponse:
    """Give a key for the OIDC token of a pod with RRSA."""
    wanted = {"Action": "AssumeRoleWithOIDC", "OIDCToken": "token-of-the-pod", "RoleArn": "acs:ram::1:role/r"}
    if any(request.query.get(name) != value for name, value in wanted.items()):
        return web.json_response({"Code": "AuthenticationFail", "Message": "no"}, status=400)
    return web.json_response({"Credentials": _temporary("oidc-key")})


@asynccontextmanager
async def tunnel(target: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Be a proxy whose every tunnel ends at ``target``.

    Yields:
        Its ``host:port``, and the hosts that were asked for.
    """
    asked: list[str] = []
    host, _, port = target.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split()[1].decode())
        their_reader, their_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pipe(reader, their_writer), _pipe(their_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield "{}:{}".format(*server.sockets[0].getsockname()), asked


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    writer.close()
