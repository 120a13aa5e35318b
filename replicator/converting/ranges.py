"""Ranges of semantic versions as the rules' ``semver``, which is that of PEP 440.

The two agree on plain versions: numbers with dots between, perhaps with a ``v`` in front. So only these pass what is
made here, see `PLAIN`. For skopeo the syntax is that of github.com/Masterminds/semver, for regsync its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PLAIN = "/^v?[0-9]+([.][0-9]+)*$/"
"""The tags that are plain versions."""
PLAIN_OF_THREE = "/^v?[0-9]+([.][0-9]+){0,2}$/"
"""The same, with three numbers at most: what semantic versioning has."""
NOT_PLAIN = "/^(?!v?[0-9]+([.][0-9]+)*$)/"
"""The tags that are none of `PLAIN`."""

_VERSION = r"v?(?P<version>[0-9]+(?:\.[0-9]+)*)"
_REGSYNC = re.compile(rf"(?P<operator>>=|<=|>|<|=|\^|~|){_VERSION}\Z")
_SKOPEO = re.compile(
    r"\s*(?P<operator>=|!=|>=|=>|<=|=<|>|<|~>|~|\^|)\s*v?(?P<version>[0-9]+|[xX*])(?P<rest>(?:\.(?:[0-9]+|[xX*])){0,2})"
)
_HYPHEN = re.compile(r"\s*v?([0-9][0-9.xX*]*)\s+-\s+v?([0-9][0-9.xX*]*)\s*\Z")
_OF_ANY = ("", "=", ">=", "=>", "~", "~>")
"""The comparisons with any version that mean any version."""
_SEPARATOR = re.compile(r"\s*,\s*|\s+|\Z")


def of_regsync(text: str) -> str:
    """Return the range that ``text`` means for plain versions, e.g. ``^1.2 <1.9`` → ``>=1.2,<2,<1.9``.

    Raises:
        ValueError: it is none, or has no equivalent.
    """
    parts = []
    for word in text.split():
        match = _REGSYNC.match(word)
        if match is None:
            raise ValueError("has no equivalent: only plain versions can be compared, without a pre-release")
        version = match["version"]
        major, minor, patch = [*map(int, version.split(".")), 0, 0][:3]
        if match["operator"] == "^":
            above = f"{major + 1}" if major else f"0.{minor + 1}" if minor else f"0.0.{patch + 1}"
            parts += [f">={version}", f"<{above}"]
        elif match["operator"] == "~":
            parts += [f">={version}", f"<{major}.{minor + 1}"]
        else:
            parts.append(f"{'==' if match['operator'] in ('', '=') else match['operator']}{version}")
    if not parts:
        raise ValueError("is empty")
    return ",".join(parts)


def of_skopeo(text: str) -> tuple[str, ...]:
    """Return the ranges of which one must hold for plain versions, e.g. ``~1.2 || 2.x`` → ``>=1.2,<1.3``, ``==2.*``.

    Raises:
        ValueError: it is none, or has no equivalent.
    """
    return tuple(",".join(_all_of(part)) or ">=0" for part in text.split("||"))


@dataclass(frozen=True, slots=True)
class _Bound:
    """A version in a comparison, of which only the first numbers may be given.

    Attributes:
        given: these numbers.
    """

    given: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.given))

    @property
    def is_whole(self) -> bool:
        return len(self.given) == 3

    def next(self, place: int) -> str:
        """Return the version whose number at ``place`` is one higher, and that ends there."""
        numbers = (*self.given, 0, 0)[: place + 1]
        return ".".join(map(str, (*numbers[:-1], numbers[-1] + 1)))


def _all_of(text: str) -> list[str]:
    hyphen = _HYPHEN.match(text)
    if hyphen:
        text = f">={hyphen[1]} <={hyphen[2]}"
    parts: list[str] = []
    at, text = 0, text.strip()
    if not text:
        raise ValueError("has no equivalent: a range is empty")
    while at < len(text):
        match = _SKOPEO.match(text, at)
        end = match and _SEPARATOR.match(text, match.end())
        if not match or not end:
            raise ValueError("has no equivalent: only plain versions can be compared, without a pre-release")
        numbers: list[int] = []
        for number in (match["version"] + match["rest"]).split("."):
            if not number.isdecimal():
                break
            numbers.append(int(number))
        parts += _compared(match["operator"], _Bound(tuple(numbers)))
        at = end.end()
    return parts


def _compared(operator: str, bound: _Bound) -> list[str]:
    """Return one comparison in the words of PEP 440; what is not given of the bound means any."""
    if not bound.given:
        if operator not in _OF_ANY:
            raise ValueError(f"has no equivalent: {operator}* means none, or the first")
        return []
    last = len(bound.given) - 1
    if operator in ("", "="):
        return [f"=={bound}" if bound.is_whole else f"=={bound}.*"]
    if operator == "!=":
        return [f"!={bound}" if bound.is_whole else f"!={bound}.*"]
    if operator in (">=", "=>"):
        return [f">={bound}"]
    if operator in ("<=", "=<"):
        return [f"<={bound}" if bound.is_whole else f"<{bound.next(last)}"]
    if operator == ">":
        return [f">{bound}" if bound.is_whole else f">={bound.next(last)}"]
    if operator == "<":
        return [f"<{bound}"]
    if operator == "^":
        leading = next((place for place, number in enumerate(bound.given) if number), last)
        return [f">={bound}", f"<{bound.next(leading)}"]
    return [f">={bound}", f"<{bound.next(min(last, 1))}"]
