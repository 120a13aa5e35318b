"""What a registry's requests tell to whoever counts them."""

from __future__ import annotations

from typing import Protocol


class RequestObserver(Protocol):
    """Is told of requests as they happen. It returns at once, and raises nothing.

    ``registry`` is always the host that the rules name: what is asked of its token server, and of the storage that it
    redirects to, is asked in its service.
    """

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Hear of a request whose answer began, or did not come.

        Args:
            registry: in whose service it was sent.
            method: GET, HEAD, POST, PUT or DELETE.
            status: the answer's; None when there was none.
            seconds: from the request's start to the head of its answer, so the sending of a body is in it.
        """

    def received(self, registry: str, size: int) -> None:
        """Hear of so many bytes of an answer's body."""

    def sent(self, registry: str, size: int) -> None:
        """Hear of so many bytes of a request's body."""

    def throttled(self, registry: str) -> None:
        """Hear of an answer that asks for fewer requests: 429, or 503 with a ``Retry-After``."""


class Unobserved:
    """The `RequestObserver` where nobody counts."""

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Pass over it."""

    def received(self, registry: str, size: int) -> None:
        """Pass over it."""

    def sent(self, registry: str, size: int) -> None:
        """Pass over it."""

    def throttled(self, registry: str) -> None:
        """Pass over it."""
