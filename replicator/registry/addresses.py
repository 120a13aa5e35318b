"""The addresses that a registry may lead to.

A registry names further hosts, in redirects and for tokens. A hostile one could name services that trust their
neighbours: a database on this machine, or a cloud's metadata service. So a registry may not lead to an address of this
machine, unless it is at such an address itself. The check is made on the address at the moment of connecting, so a
name that changes its address between two look-ups (DNS rebinding) gains nothing. Behind a proxy only the proxy looks
names up, so only an address that is written out is refused here, and the proxy has to refuse the rest.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

from yarl import URL

from replicator.networks import is_internal
from replicator.registry.connection_errors import AddressRefused, led_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from aiohttp import AddrInfoType

    from replicator.registry.proxies import Proxies

_refuse_internal: ContextVar[bool] = ContextVar("refuse_internal", default=False)
"""Set while a request to a foreign host is sent: aiohttp's socket factory gets no information about the request."""


class AddressGuard:
    """The hosts that one registry may lead to.

    Args:
        registry: the host the rules name.
    """

    def __init__(self, registry: str) -> None:
        self._name = URL(f"//{registry}").host
        self._is_internal: bool | None = None

    def is_own(self, url: URL, base: URL | None) -> bool:
        """Tell whether a URL is at the registry itself: at its address (None until it is known), or its public name."""
        return base is None or url.raw_authority == base.raw_authority or url.host in (base.host, self._name)

    def towards(self, url: URL, base: URL | None, proxies: Proxies) -> AbstractAsyncContextManager[None]:
        """Make `open_socket` refuse internal addresses while a request to a foreign host is sent in this block.

        A proxy may be at any address, and looks the target up by itself: then only the URL's own words count.

        Args:
            url: the target of the request.
            base: the registry's address; None while that is being found out.
            proxies: how both are reached.

        Raises:
            ProtocolViolated: the target is behind a proxy, and its URL names an internal address.
        """
        return nullcontext() if self.is_own(url, base) else self._towards(url, base, proxies)

    @asynccontextmanager
    async def _towards(self, url: URL, base: URL | None, proxies: Proxies) -> AsyncIterator[None]:
        # A registry at an internal address, as in a test or a single-host setup, may lead to its neighbours.
        refuse = not await self._internal(base, proxies)
        proxied = proxies.find(url) is not None
        if refuse and proxied and names_internal(url.host or ""):
            raise led_to(url, AddressRefused())
        before = _refuse_internal.set(refuse and not proxied)
        try:
            yield
        finally:
            _refuse_internal.reset(before)

    async def _internal(self, base: URL | None, proxies: Proxies) -> bool:
        if self._is_internal is None and base is not None:
            if proxies.find(base) is not None:
                # Its name may mean nothing to this machine.
                return names_internal(base.host or "")
            try:
                found = await asyncio.get_running_loop().getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
            except OSError:
                # Not remembered: the name may resolve next time. The request itself will say that it does not.
                return False
            self._is_internal = any(is_internal(str(address[0])) for *_, address in found)
        return self._is_internal or False


def names_internal(host: str) -> bool:
    """Tell whether the host of a URL is an internal address by itself, in any spelling that ``inet_aton`` takes."""
    host = host.rstrip(".").lower()
    try:
        # A proxy looks up 127.1, 0x7f000001 and 2130706433 as 127.0.0.1.
        address = socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        address = host
    return is_internal(address) or host == "localhost" or host.endswith(".localhost")


_UNSENT_BYTES = 128 * 1024
"""Unsent bytes that the system buffers (TCP_NOTSENT_LOWAT): they can't be held back any more."""


def open_socket(address: AddrInfoType) -> socket.socket:
    """Make the socket for a connection; aiohttp's ``socket_factory``.

    Args:
        address: a result of ``getaddrinfo``.

    Raises:
        AddressRefused: the request is `towards` a foreign host, and the address is an internal one.
    """
    family, kind, protocol, _, (host, *_) = address
    if _refuse_internal.get() and is_internal(str(host)):
        raise AddressRefused
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return made
