"""The address of a registry and the login there: fixed, or requested on demand."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field, replace
from pathlib import Path  # noqa: TC003 - part of the value's type, resolved by its users
from typing import Protocol

from replicator.registry.errors import RegistryError
from replicator.registry.proxies import Proxies  # noqa: TC001 - part of the value's type, resolved by its users

IDENTITY_TOKEN = "<token>"  # noqa: S105 - a username
"""Username that marks the password as an OAuth2 refresh token, as in the protocol of Docker's credential helpers."""


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password; for `IDENTITY_TOKEN` the password is a refresh token. It is in no representation."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str | None:
        """The header of HTTP Basic; None for a refresh token, which is not a password."""
        if self.refresh_token is not None:
            return None
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    @property
    def refresh_token(self) -> str | None:
        """The refresh token, which the token endpoint takes instead of a password; None if this is a password."""
        return self.password if self.username == IDENTITY_TOKEN else None


class Logins(Protocol):
    """A source of logins for one registry that are requested on demand, e.g. because they expire. It is hashable."""

    async def login(self, service: str | None) -> Login:
        """Return a login that is valid now.

        Args:
            service: the ``service`` of the registry's token challenge, if it named one.

        Raises:
            RegistryError: there is none.
        """

    def refused(self, login: Login) -> bool:
        """Note that the registry refused ``login``; return whether the next one is certain to be another."""


class Creator(Protocol):
    """A way to create repositories at a registry that does not always do so at the first push. It is hashable."""

    async def create(self, name: str, service: str | None) -> bool:
        """Create the repository ``name`` after a refused push; no error if it exists already.

        Args:
            name: of the repository, without its registry.
            service: the ``service`` of the registry's token challenge, if it named one.

        Returns:
            Whether the push is worth another attempt.

        Raises:
            RegistryError: it could not be created.
        """


class RepositoryTypes(Protocol):
    """A way to find out who may pull from repositories without trying it. It is hashable."""

    async def is_public(self, name: str, service: str | None) -> bool | None:
        """Tell whether anyone may pull from the repository ``name``, or could if a push created it now.

        Args:
            name: of the repository, without its registry.
            service: the ``service`` of the registry's token challenge, if it named one.

        Returns:
            None if that can't be found out.
        """


@dataclass(frozen=True, slots=True)
class Access:
    """The address of one registry and the login there.

    Attributes:
        username: None for anonymous.
        password: in no representation.
        insecure: do not verify the TLS certificate, and fall back to plain HTTP.
        ca_file: PEM file of further authorities to trust for this registry.
        endpoint: ``host[:port]`` or ``http(s)://host[:port]`` to connect to instead of the registry's own name.
        logins: source of the login, in place of username and password; asked again when the login is a minute old or
            was refused.
        manifest_agent: ``User-Agent`` of each GET of a manifest at a source, instead of the usual one; of nothing
            else, and never at a destination.
        creator: creates a repository after a refused push.
        types: tells whether a repository is public.
        proxies: for all requests to the registry, its token server and the storage that it redirects to; None for
            those of the environment.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    insecure: bool = False
    ca_file: Path | None = None
    endpoint: str | None = None
    logins: Logins | None = field(default=None, repr=False)
    manifest_agent: str | None = None
    creator: Creator | None = field(default=None, repr=False)
    types: RepositoryTypes | None = field(default=None, repr=False)
    proxies: Proxies | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether there is no login, neither a fixed one nor a source of logins."""
        return self.username is None and self.logins is None

    def for_anyone(self) -> Access:
        """Return the same address without any login."""
        return replace(self, username=None, password=None, logins=None, creator=None, types=None)


_LIFE = 60.0
"""Seconds after which a login is requested again."""
_FRESH = 5.0
"""Age in seconds up to which a refused login is no reason to request another."""
_FAILED = 30.0
"""Seconds for which no login is requested after a failure."""


class LoginSource:
    """The login of an access, requested once however many requests wait for it.

    Attributes:
        exists: whether there is a login at all.
        asks: whether it is requested on demand.
    """

    def __init__(self, access: Access) -> None:
        self._logins = access.logins
        self._fixed = Login(access.username, access.password or "") if access.username is not None else None
        self.exists = self._logins is not None or self._fixed is not None
        self.asks = self._logins is not None
        self._current: tuple[float, Login] | None = None
        self._failure: tuple[float, RegistryError] | None = None
        self._lock = asyncio.Lock()

    async def get(self, service: str | None = None) -> Login | None:
        """Return the login; None for anonymous.

        Args:
            service: the ``service`` of the registry's token challenge, if it named one.

        Raises:
            RegistryError: the source of logins has none.
        """
        if self._logins is None:
            return self._fixed
        async with self._lock:
            now = time.monotonic()
            # A helper that hangs for its 20 seconds must not be run once for every tag.
            if self._failure is not None and now - self._failure[0] < _FAILED:
                # A copy: the first one carries the traceback of another request.
                raise self._failure[1].again()
            if self._current is None or now - self._current[0] >= _LIFE:
                try:
                    login = await self._logins.login(service)
                except RegistryError as error:
                    self._failure = (time.monotonic(), error)
                    raise
                self._current, self._failure = (time.monotonic(), login), None
            return self._current[1]

    def renew(self, refused: Login) -> bool:
        """Note that a login was refused; return whether another attempt may get a different one."""
        if self._logins is None:
            return False
        if self._current is None or self._current[1] != refused:
            # Another request has renewed it meanwhile.
            return True
        # Not certain to be another, a login that has just been requested is not worth a second request.
        another = self._logins.refused(refused)
        if not another and time.monotonic() - self._current[0] < _FRESH:
            return False
        self._current = None
        return True

    def renew_basic(self, refused: str) -> bool:
        """The same as `renew`, for a refused header of HTTP Basic."""
        current = self._current[1] if self._current is not None else None
        if current is None or current.basic != refused:
            return self._logins is not None
        return self.renew(current)
