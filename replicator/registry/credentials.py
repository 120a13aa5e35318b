"""How a registry is reached, and as whom.

Name and password of one registry: as they were given, or asked for when they are needed.
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of the value's type, resolved by its users
from typing import Protocol

from replicator.registry.errors import RegistryError

IDENTITY_TOKEN = "<token>"  # noqa: S105 - a username
"""The username that says of a password that it is an OAuth2 refresh token, as Docker's credential helpers do."""


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password.

    Attributes:
        username: the name, or `IDENTITY_TOKEN`.
        password: the password, or the refresh token; never shown.
    """

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str | None:
        """The header of HTTP Basic; None for a refresh token, which is no password."""
        if self.refresh_token is not None:
            return None
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    @property
    def refresh_token(self) -> str | None:
        """What the token endpoint takes instead of a password, if that is what this is."""
        return self.password if self.username == IDENTITY_TOKEN else None


class Logins(Protocol):
    """Gives the login of a registry when it is needed, and another when that has ended. It must be hashable."""

    async def login(self, service: str | None) -> Login:
        """Return a login that holds now.

        Args:
            service: the ``service`` of the registry's token challenge, if it named one.

        Raises:
            RegistryError: there is none to be had.
        """

    def refused(self, login: Login) -> bool:
        """Note that the registry refused ``login``, and tell whether the next is known to be another."""


class Creator(Protocol):
    """Creates repositories at a registry that does not, or not always, do so at the first push. It must be hashable."""

    async def create(self, name: str, service: str | None) -> bool:
        """Create the repository ``name``, which a push was refused for; that it is there already is no error.

        Args:
            name: of the repository, without its registry.
            service: the ``service`` of the registry's token challenge, if it named one.

        Returns:
            Whether the push is worth another try.

        Raises:
            RegistryError: it could not be created.
        """


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one registry, and as whom.

    Attributes:
        username: the login's name; None for anonymous.
        password: the login's secret; never shown.
        insecure: do not verify the TLS certificate, and fall back to plain HTTP.
        ca_file: PEM file of further authorities to trust for this registry.
        endpoint: ``host[:port]`` or ``http(s)://host[:port]`` to connect to instead of the registry's own name.
        logins: asked for the login when it is needed, in place of username and password; again when that is a minute
            old, and when it was refused.
        manifest_agent: sent as ``User-Agent`` with each GET of a manifest at a source, instead of the usual one; with
            nothing else, and never at a destination.
        creator: asked to create a repository that a push was refused for; None where nobody does.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    insecure: bool = False
    ca_file: Path | None = None
    endpoint: str | None = None
    logins: Logins | None = field(default=None, repr=False)
    manifest_agent: str | None = None
    creator: Creator | None = field(default=None, repr=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether there is no login, neither a given one nor one to be asked for."""
        return self.username is None and self.logins is None


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
