"""Filters for tags of other programs as those of the rules: regular expressions of Go, and ranges of versions.

Go's expressions (package ``regexp/syntax``) are those of RE2, which runs the rules' expressions, so they stay as they
are. Ranges become ranges of PEP 440. The programs' ranges and PEP 440 agree on plain versions, numbers separated by
dots with an optional ``v`` in front, so only these pass the filters made here, see `PLAIN`. skopeo's syntax is that of
github.com/Masterminds/semver, regsync has its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicator.rules.patterns import ExpressionError, compile_tag_pattern

_NO_REPETITION = re.compile(r"(\\.)|\{(?=,[0-9]*\})", re.DOTALL)

_BRACKETS = re.compile(r"(\\.)|\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]", re.DOTALL)
# After a hyphen the bracket ends a range, and what looks like a class is plain characters.
_CLASS = re.compile(r"(\\.)|(?<!^)(?<!^\[)(?<!-)\[:([a-z]+):\]", re.DOTALL)
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
"""The classes of Go with characters that a tag can have."""


def _written_out(match: re.Match[str]) -> str:
    return _CLASSES.get(match[2] or "", match[0])


def translated(pattern: str, *, anchored: bool) -> str:
    """Return a regular expression of Go as the rules write it: ``/…/``, found anywhere in a tag.

    Go's syntax (package ``regexp/syntax``) is that of RE2, which runs the rules' expressions.

    Args:
        pattern: the expression.
        anchored: whether ``^`` and ``$`` are put around it, as text: ``a|b`` becomes ``^a|b$``, which is found in
            every tag that begins with ``a`` or ends with ``b``.

    Raises:
        ValueError: it is no expression of Go, or has no equivalent; the message says why.
    """
    # The rules take a{,2} for a repetition, as Python does; for Go it is plain text. And a class such as [:alpha:]
    # counts in the rules only where it is the first in its brackets.
    body = _NO_REPETITION.sub(lambda match: match[0] if match[1] else r"\{", pattern)
    body = _BRACKETS.sub(lambda match: match[0] if match[1] else _CLASS.sub(_written_out, match[0]), body)
    found = f"/{f'^{body}$' if anchored else body or '^'}/"
    try:
        compiled = compile_tag_pattern(found)
    except ExpressionError as error:
        raise ValueError(error.reason) from None
    if compiled.reason is not None:
        raise ValueError(f"has no equivalent: {compiled.reason}")
    return found


PLAIN = "/^v?[0-9]+([.][0-9]+)*$/"
"""Matches the tags that are plain versions."""
PLAIN_OF_THREE = "/^v?[0-9]+([.][0-9]+){0,2}$/"
"""Matches plain versions of at most three numbers, as semantic versions have."""
NOT_PLAIN = "/[^0-9.v]|.v|^v?[.]|[.][.]|[.]$|^v$/"
"""Matches exactly the tags that `PLAIN` does not match."""

_VERSION = r"v?(?P<version>[0-9]+(?:\.[0-9]+)*)"
_REGSYNC = re.compile(rf"(?P<operator>>=|<=|>|<|=|\^|~|){_VERSION}\Z")
_SKOPEO = re.compile(
    r"\s*(?P<operator>=|!=|>=|=>|<=|=<|>|<|~>|~|\^|)\s*v?(?P<version>[0-9]+|[xX*])(?P<rest>(?:\.(?:[0-9]+|[xX*])){0,2})"
)
_HYPHEN = re.compile(r"\s*v?([0-9][0-9.xX*]*)\s+-\s+v?([0-9][0-9.xX*]*)\s*\Z")
_OF_ANY = ("", "=", ">=", "=>", "~", "~>")
"""Operators that, in front of ``*``, mean any version."""
_SEPARATOR = re.compile(r"\s*,\s*|\s+|\Z")


def of_regsync(text: str) -> str:
    """Convert a range of regsync for plain versions, e.g. ``^1.2 <1.9`` → ``>=1.2,<2,<1.9``.

    Raises:
        ValueError: it is no range, or has no equivalent.
    """
    parts = []
    for word in text.split():
        match = _REGSYNC.match(word)
        if match is None:
            raise ValueError("has no equivalent: it must compare plain versions, without a pre-release")
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
    """Convert a range of skopeo for plain versions to alternatives, e.g. ``~1.2 || 2.x`` → ``>=1.2,<1.3``, ``==2.*``.

    Raises:
        ValueError: it is no range, or has no equivalent.
    """
    return tuple(",".join(_all_of(part)) or ">=0" for part in text.split("||"))


@dataclass(frozen=True, slots=True)
class _Bound:
    """A version in a comparison, of which only the first numbers may be given."""

    given: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.given))

    @property
    def is_whole(self) -> bool:
        return len(self.given) == 3

    def next(self, index: int) -> str:
        """Return the version that ends with the number at ``index``, raised by one."""
        numbers = (*self.given, 0, 0)[: index + 1]
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
            raise ValueError("has no equivalent: it must compare plain versions, without a pre-release")
        numbers: list[int] = []
        for number in (match["version"] + match["rest"]).split("."):
            if not number.isdecimal():
                break
            numbers.append(int(number))
        parts += _compared(match["operator"], _Bound(tuple(numbers)))
        at = end.end()
    return parts


def _compared(operator: str, bound: _Bound) -> list[str]:
    """Return one comparison in terms of PEP 440; numbers missing in the bound match any."""
    if not bound.given:
        if operator not in _OF_ANY:
            raise ValueError(f"has no equivalent: {operator}* matches no version, or depends on the first")
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
        leading = next((index for index, number in enumerate(bound.given) if number), last)
        return [f">={bound}", f"<{bound.next(leading)}"]
    return [f">={bound}", f"<{bound.next(min(last, 1))}"]
