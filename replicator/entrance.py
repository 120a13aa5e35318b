"""Who may come in: the tokens and addresses that the settings name."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from replicator.errors import ConfigError, Problem
from replicator.networks import Networks

if TYPE_CHECKING:
    from replicator.settings import Settings


@dataclass(frozen=True, slots=True)
class Entrance:
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

    def admits(self, client: str | None) -> bool:
        """Tell whether a request may come from an address; None for one that is not known."""
        return self.sources is None or client in self.sources

    def knows(self, authorization: str) -> str | None:
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
