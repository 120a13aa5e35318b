"""Authentication of requests: webhooks by token and address, the page by password, its forms and the API by a token."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from replicator.errors import ConfigError, Problem
from replicator.networks import Networks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.settings import Settings


@dataclass(frozen=True, slots=True)
class WebhookAuth:
    """Accepts or refuses webhooks by their ``Authorization`` header and their sender's address.

    Attributes:
        token: the header's value, alone or after ``Bearer``; None accepts everyone.
        former: older tokens that are still accepted.
        sources: where webhooks may come from; None for everywhere.
    """

    token: str | None
    former: tuple[str, ...] = ()
    sources: Networks | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings.

        Raises:
            ConfigError: there is no token, and anonymous webhooks are not allowed.
        """
        sources = Networks(settings.webhook_sources) if settings.webhook_sources is not None else None
        if settings.token is None and not settings.webhook_anonymous:
            message = (
                "no webhook token: set it to a long random text, and set the same as the auth header of Harbor's "
                "webhook policy; or set REPLICATOR_WEBHOOK_ANONYMOUS=true to accept events from anyone who can reach "
                "this address"
            )
            raise ConfigError("settings", [Problem("REPLICATOR_WEBHOOK_TOKEN", message)])
        return cls(settings.token, settings.former_tokens if settings.token is not None else (), sources)

    @property
    def is_open(self) -> bool:
        """Whether everyone is accepted without a token."""
        return self.token is None

    def allows_address(self, client: str | None) -> bool:
        """Tell whether webhooks may come from an address; an unknown one (None) only if there is no restriction."""
        return self.sources is None or client in self.sources

    def matching_token(self, authorization: str) -> str | None:
        """Compare an ``Authorization`` header with every token.

        Args:
            authorization: the header's value as ASGI's latin-1 text; empty without one.

        Returns:
            ``current``, ``former`` or ``none needed``; None if no token matches.
        """
        if self.token is None:
            return "none needed"
        given = authorization.encode("latin-1")
        # All of them, each in constant time: how long an answer takes must not tell which token is nearly right.
        matches = [_matches(given, token) for token in (self.token, *self.former)]
        if not any(matches):
            return None
        return "current" if matches[0] else "former"


def _matches(given: bytes, token: str) -> bool:
    bare = hmac.compare_digest(given, token.encode())
    return hmac.compare_digest(given, b"Bearer " + token.encode()) | bare


def user_of(authorization: str) -> str:
    """Return the user name of an ``Authorization`` header; empty without one. It is not verified."""
    return _basic(authorization)[0].decode(errors="replace")


def _basic(authorization: str) -> tuple[bytes, bytes, bytes]:
    """Return the user name, a colon and the password of HTTP Basic; all empty if it is not that."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        credentials = base64.b64decode(encoded.strip(), validate=True)
    except (ValueError, binascii.Error):
        credentials = b""
    return credentials.partition(b":") if scheme.lower() == "basic" else (b"", b"", b"")


_FORM_PERIOD = 12 * 3600
"""Seconds for which forms get the same token; it is accepted for one more period."""


@dataclass(frozen=True, slots=True)
class PageAuth:
    """Accepts or refuses requests for the status page, by HTTP Basic (RFC 7617), which every browser can send.

    Browsers also add it to requests that other sites cause, so forms need a token that only our page contains, and
    `is_cross_site` must not object.

    Attributes:
        token: the password; None if there is no page.
    """

    token: str | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings."""
        token = settings.status_token
        return cls(token.get_secret_value() or None if token is not None else None)

    def matches_password(self, authorization: str) -> bool:
        """Tell in constant time whether an ``Authorization`` header has the password; the user name is ignored.

        Args:
            authorization: the header's value; empty without one.
        """
        if self.token is None:
            return False
        _, colon, password = _basic(authorization)
        matches = hmac.compare_digest(password, self.token.encode())
        return matches and bool(colon)

    def form_token(self, now: float) -> str:
        """Return the token of a form that is rendered now (seconds since 1970).

        It depends on the password and the time alone, so that a form of one process is accepted by another.
        """
        return self._form_token(int(now // _FORM_PERIOD))

    def accepts_form(self, form_token: str, now: float) -> bool:
        """Tell whether a form is one of our page, rendered in the last 12 to 24 hours."""
        given, period = form_token.encode(), int(now // _FORM_PERIOD)
        matches = [hmac.compare_digest(given, self._form_token(each).encode()) for each in (period, period - 1)]
        return any(matches)

    def _form_token(self, period: int) -> str:
        key = (self.token or "").encode()
        return hmac.new(key, b"replicator status form %d" % period, hashlib.sha256).hexdigest()


class Scope(StrEnum):
    """What a token of the API allows; to operate is to read, too."""

    READ = "read"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class ApiAuth:
    """Accepts or refuses requests for the API: by a token, or by the login of the status page, which may operate.

    Attributes:
        tokens: each with its scope.
        page: the login of the status page.
    """

    tokens: tuple[tuple[Scope, str], ...]
    page: PageAuth

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings."""
        return cls(tuple((Scope(scope), token) for scope, token in settings.scoped_tokens), PageAuth.of(settings))

    @property
    def is_on(self) -> bool:
        """Whether anyone can be accepted."""
        return bool(self.tokens) or self.page.token is not None

    def scope_of(self, authorization: str) -> Scope | None:
        """Compare an ``Authorization`` header with every token, each in constant time; None if none matches.

        Args:
            authorization: the header's value as ASGI's latin-1 text; empty without one.
        """
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        found = {scope for scope, known in self.tokens if hmac.compare_digest(given, known.encode())}
        if self.page.matches_password(authorization):
            found.add(Scope.OPERATE)
        return Scope.OPERATE if Scope.OPERATE in found else Scope.READ if found else None


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Tell whether the browser says that another site caused a request.

    Browsers say so in ``Sec-Fetch-Site`` (https://www.w3.org/TR/fetch-metadata/), but not over plain HTTP. Then
    ``Origin`` must be the host that was asked for, by the name that a proxy in front passes on.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    hosts = {headers.get("host", "").lower(), headers.get("x-forwarded-host", "").lower()}
    host = urlsplit(origin).netloc.lower()
    # "null" has no host: the browser hides where the request comes from.
    return not host or host not in hosts
