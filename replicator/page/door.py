"""Who may see the status page, and whose forms are taken.

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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.settings import Settings

_PERIOD = 12 * 3600
"""Seconds that a form's token is given out; it is taken for as long again."""


@dataclass(frozen=True, slots=True)
class Door:
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

    def knows(self, authorization: str) -> bool:
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
