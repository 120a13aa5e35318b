"""How a registry is reached, and as whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable  # noqa: TC003 - part of the value's type, as below
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - part of the value's type, resolved by its users

IDENTITY_TOKEN = "<token>"  # noqa: S105 - a username
"""The username that says of a password that it is an OAuth2 refresh token, as Docker's credential helpers do."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one registry, and as whom.

    Attributes:
        username: the login's name; None for anonymous.
        password: the login's secret; never shown.
        insecure: do not verify the TLS certificate, and fall back to plain HTTP.
        ca_file: PEM file of further authorities to trust for this registry.
        endpoint: ``host[:port]`` or ``http(s)://host[:port]`` to connect to instead of the registry's own name.
        login: asked for username and password when they are needed, instead of these two; it raises a `RegistryError`
            if there are none. It is asked again when they are a minute old, and when they were refused.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    insecure: bool = False
    ca_file: Path | None = None
    endpoint: str | None = None
    login: Callable[[], Awaitable[tuple[str, str]]] | None = field(default=None, repr=False)
