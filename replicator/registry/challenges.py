"""``WWW-Authenticate`` headers (RFC 9110, section 11.6.1): what a registry wants to be told.

Several headers, several challenges in one header and commas inside quoted strings are all legal, and all are met.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf"\s*(?:,\s*)*(?:"
    rf"(?P<key>{_NAME})\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s,\"]+))"
    rf"|(?P<scheme>{_NAME})(?=\s|,|$)"
    rf")"
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers.

    Attributes:
        scheme: lower-case, e.g. ``bearer``.
        parameters: by lower-case name, unquoted.
    """

    scheme: str
    parameters: Mapping[str, str]


def lacks_scope(headers: Iterable[str]) -> bool:
    """Tell whether a refusal says that the token holds but does not allow enough (RFC 6750, section 3.1)."""
    return any(challenge.parameters.get("error") == "insufficient_scope" for challenge in parse_challenges(headers))


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read every challenge of every header, in order; what can't be read ends its header."""
    challenges: list[Challenge] = []
    for header in headers:
        parameters: dict[str, str] | None = None
        position = 0
        while match := _PART.match(header, position):
            position = match.end()
            if scheme := match["scheme"]:
                parameters = {}
                challenges.append(Challenge(scheme.lower(), parameters))
            elif parameters is None:
                break
            else:
                value = match["plain"]
                if value is None:
                    value = re.sub(r"\\(.)", r"\1", match["quoted"])
                parameters.setdefault(match["key"].lower(), value)
    return tuple(challenges)
