"""A short answer of a registry, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy
    from yarl import URL


@dataclass(frozen=True, slots=True)
class Reply:
    """A short answer, read whole.

    Attributes:
        status: the HTTP status.
        headers: its headers.
        body: its bytes, bounded by what was asked for.
        url: where it came from; what a relative Location is relative to.
    """

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL
