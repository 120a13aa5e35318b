"""How a registry is reached, and as whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of the value's type, resolved by its users
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password.

    Attributes:
        username: the login's name.
        password: the login's secret; never shown.
    """

    username: str
    password: str = field(repr=False)


class LoginSource(Protocol):
    """Gives logins that end, and new ones in time. It must be hashable."""

    async def login(self, service: str | None) -> Login:
        """Return a login that holds now; asked before each token, so it keeps what it has.

        Args:
            service: the ``service`` of the registry's token challenge, if it named one.

        Raises:
            RegistryError: there is none to be had.
        """

    def refused(self, login: Login) -> None:
        """Note that the registry refused ``login``, so that the next may be another."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one registry, and as whom.

    Attributes:
        username: the login's name; None for anonymous.
        password: the login's secret; never shown.
        insecure: do not verify the TLS certificate, and fall back to plain HTTP.
        ca_file: PEM file of further authorities to trust for this registry.
        endpoint: ``host[:port]`` or ``http(s)://host[:port]`` to connect to instead of the registry's own name.
        logins: gives the login in place of username and password.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    insecure: bool = False
    ca_file: Path | None = None
    endpoint: str | None = None
    logins: LoginSource | None = None
