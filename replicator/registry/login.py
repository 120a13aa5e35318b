"""Name and password of one registry: as they were given, or asked for when they are needed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from replicator.registry.access import Login
from replicator.registry.errors import RegistryError

if TYPE_CHECKING:
    from replicator.registry.access import Access

_LIFE = 60.0
"""Seconds after which a login is asked for again."""
_FRESH = 5.0
"""Age of a login up to which it is no use to ask for another, if it was refused."""
_FAILED = 30.0
"""Seconds for which a login is not asked for again after that failed."""


class LoginSource:
    """Gives the login of an access, and asks for one at a time, however many requests wait for it.

    Attributes:
        exists: whether there is a login at all.
        asks: whether it is asked for when it is needed.
    """

    def __init__(self, access: Access) -> None:
        self._logins = access.logins
        self._given = Login(access.username, access.password or "") if access.username is not None else None
        self.exists = self._logins is not None or self._given is not None
        self.asks = self._logins is not None
        self._asked: tuple[float, Login] | None = None
        self._failure: tuple[float, RegistryError] | None = None
        self._lock = asyncio.Lock()

    async def get(self, service: str | None = None) -> Login | None:
        """Return the login; None for nobody.

        Args:
            service: the ``service`` of the registry's token challenge, if it named one.

        Raises:
            RegistryError: it was asked for, and there is none.
        """
        if self._logins is None:
            return self._given
        async with self._lock:
            now = time.monotonic()
            if self._failure is not None and now - self._failure[0] < _FAILED:
                # Raised anew: what was raised before carries the trace of another request.
                raise self._failure[1].again()
            if self._asked is None or now - self._asked[0] >= _LIFE:
                try:
                    login = await self._logins.login(service)
                except RegistryError as error:
                    self._failure = (time.monotonic(), error)
                    raise
                self._asked, self._failure = (time.monotonic(), login), None
            return self._asked[1]

    def renew(self, refused: Login) -> bool:
        """Note that a login was refused, and tell whether asking for another may help."""
        if self._logins is None:
            return False
        if self._asked is None or self._asked[1] != refused:
            return True
        another = self._logins.refused(refused)
        if not another and time.monotonic() - self._asked[0] < _FRESH:
            return False
        self._asked = None
        return True

    def renew_basic(self, refused: str) -> bool:
        """Do the same as `renew`, for the header of HTTP Basic that was refused."""
        current = self._asked[1] if self._asked is not None else None
        if current is None or current.basic != refused:
            return self._logins is not None
        return self.renew(current)
