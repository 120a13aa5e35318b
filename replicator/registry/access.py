"""How a registry is reached, and as whom."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of the value's type, resolved by its users
from typing import Protocol

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
