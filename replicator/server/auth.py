"""Who may come in: the tokens and addresses that the settings name.

Who may see the status page, and whose forms are taken.

HTTP Basic (RFC 7617) is what every browser can send. Browsers add it to requests that other sites cause, too: so a
form must come from a page of ours, which it shows by a token that only such a page has, and the browser must not say
otherwise.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from replicator.errors import ConfigError, Problem
from replicator.networks import Networks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.settings import Settings


@dataclass(frozen=True, slots=True)
class WebhookAuth:
    """Decides on a request by its ``Authorization`` and its sender.

    Attributes:
        token: what is to be sent, alone or behind ``Bearer``; None takes everyone.
        former: what is still taken beside it.
        sources: where requests may come from; None for everywhere.
    """

    token: str | None
    former: tuple[str, ...] = ()
    sources: Networks | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings.

        Raises:
            ConfigError: there is no token, and none is not wanted either.
        """
        sources = Networks(settings.webhook_sources) if settings.webhook_sources is not None else None
        if settings.token is None and not settings.webhook_anonymous:
            message = (
                "set it to a long random text, and give Harbor's webhook policy the same as its auth header; "
                "or set REPLICATOR_WEBHOOK_ANONYMOUS=true to take events from anyone who can reach this address"
            )
            raise ConfigError("settings", [Problem("REPLICATOR_WEBHOOK_TOKEN", message)])
        return cls(settings.token, settings.former_tokens if settings.token is not None else (), sources)

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return self.token is None

    def allows_address(self, client: str | None) -> bool:
        """Tell whether a request may come from an address; None for one that is not known."""
        return self.sources is None or client in self.sources

    def matching_token(self, authorization: str) -> str | None:
        """Compare an ``Authorization`` header with every token.

        Args:
            authorization: the header's value as ASGI's latin-1 text; empty without one.

        Returns:
            ``current``, ``former`` or ``none needed``; None when it is none of them.
        """
        if self.token is None:
            return "none needed"
        given = authorization.encode("latin-1")
        # All are compared, in constant time each: an answer's time must tell nothing.
        fits = [_is(given, token) for token in (self.token, *self.former)]
        if not any(fits):
            return None
        return "current" if fits[0] else "former"


def _is(given: bytes, token: str) -> bool:
    alone = hmac.compare_digest(given, token.encode())
    return hmac.compare_digest(given, b"Bearer " + token.encode()) | alone


_PERIOD = 12 * 3600
"""Seconds that a form's token is given out; it is taken for as long again."""


@dataclass(frozen=True, slots=True)
class PageAuth:
    """Decides on a request for the status page.

    Attributes:
        token: the password; None where there is no page.
    """

    token: str | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read it from the settings."""
        token = settings.status_token
        return cls(token.get_secret_value() or None if token is not None else None)

    def matches_password(self, authorization: str) -> bool:
        """Tell whether an ``Authorization`` header has the password, in a time that tells nothing of it.

        Args:
            authorization: the header's value; empty without one.
        """
        if self.token is None:
            return False
        scheme, _, encoded = authorization.partition(" ")
        try:
            credentials = base64.b64decode(encoded.strip(), validate=True)
        except (ValueError, binascii.Error):
            credentials = b""
        _, colon, password = credentials.partition(b":")
        fits = hmac.compare_digest(password, self.token.encode())
        return fits and bool(colon) and scheme.lower() == "basic"

    def form_token(self, now: float) -> str:
        """Return what a form that is made now has to bring back: the same at all processes of an installation.

        Args:
            now: seconds since 1970.
        """
        return self._form_token(int(now // _PERIOD))

    def takes(self, form_token: str, now: float) -> bool:
        """Tell whether a form was made by a page of ours, and lately enough: 12 to 24 hours."""
        given, period = form_token.encode(), int(now // _PERIOD)
        made = [hmac.compare_digest(given, self._form_token(one).encode()) for one in (period, period - 1)]
        return any(made)

    def _form_token(self, period: int) -> str:
        key = (self.token or "").encode()
        return hmac.new(key, b"replicator status form %d" % period, hashlib.sha256).hexdigest()


def from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Tell whether the browser says that another site caused a request.

    ``Sec-Fetch-Site`` is its own word on that (https://www.w3.org/TR/fetch-metadata/); it is missing over plain HTTP.
    Then ``Origin`` must be the host that was asked for, by the name that a proxy in front passes on.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    asked = (headers.get("host", ""), headers.get("x-forwarded-host", ""))
    return not urlsplit(origin).netloc or urlsplit(origin).netloc.lower() not in {host.lower() for host in asked}
