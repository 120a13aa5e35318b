"""Which addresses a registry may lead to: not this machine's own, unless it is there itself.

A registry names further hosts, in redirects and for tokens. One that is hostile could name services that trust
whoever is near: a database on this machine, or a cloud's metadata service. What counts is the address that a name
stands for at the moment of connecting, so a name that changes its address meanwhile gains nothing.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from yarl import URL

from replicator.networks import is_internal

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from aiohttp import AddrInfoType

_keeping_out: ContextVar[bool] = ContextVar("keeping_out", default=False)


class AddressRefused(OSError):
    """A connection would lead to an internal address that it must not lead to."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "an address of this machine or of its cloud's metadata: refused")


class Reach:
    """Where one registry may lead.

    Args:
        registry: the host the rules name.
    """

    def __init__(self, registry: str) -> None:
        self._name = URL(f"//{registry}").host
        self._is_internal: bool | None = None

    def is_own(self, url: URL, base: URL) -> bool:
        """Tell whether a URL is at the registry itself: where it is reached, or at its public name."""
        return url.host in (base.host, self._name)

    def tls_at(self, url: URL, tls: ssl.SSLContext | bool, base: URL | None) -> ssl.SSLContext | bool:
        """Return what aiohttp takes as ``ssl`` for one request.

        Verification is off for the registry itself only; a storage host it redirects to is verified.

        Args:
            url: where the request goes.
            tls: what is taken for the registry: False for no verification.
            base: where the registry is reached; None while that is found out.
        """
        if tls is not False or base is None or self.is_own(url, base):
            return tls
        return True

    @asynccontextmanager
    async def towards(self, url: URL, base: URL | None) -> AsyncIterator[None]:
        """Send a request to a URL in here: `open_socket` then refuses internal addresses to foreign hosts.

        Args:
            url: what is asked for.
            base: where the registry is reached; None while that is found out.
        """
        foreign = base is not None and not self.is_own(url, base)
        before = _keeping_out.set(foreign and not await self._internal(base))
        try:
            yield
        finally:
            _keeping_out.reset(before)

    async def _internal(self, base: URL | None) -> bool:
        if self._is_internal is None and base is not None:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
            except OSError:
                return False
            self._is_internal = any(is_internal(str(where[0])) for *_, where in found)
        return self._is_internal or False


def open_socket(address: AddrInfoType) -> socket.socket:
    """Make the socket for a connection, as aiohttp's connector asks for it.

    Args:
        address: what ``getaddrinfo`` gave.

    Raises:
        AddressRefused: the request is `towards` a foreign host, and the address is an internal one.
    """
    family, kind, protocol, _, where = address
    if _keeping_out.get() and is_internal(str(where[0])):
        raise AddressRefused
    return socket.socket(family, kind, protocol)
