"""Regular expressions of Go as the rules' own, which are Python's, with the same meaning for every tag.

Go documents its syntax in the package ``regexp/syntax``. Tags are ASCII and have no line breaks, so most differences
never show. The rest is translated here, or refused: an expression with another meaning would copy other tags.

Ranges of semantic versions as the rules' ``semver``, which is that of PEP 440.

The two agree on plain versions: numbers with dots between, perhaps with a ``v`` in front. So only these pass what is
made here, see `PLAIN`. For skopeo the syntax is that of github.com/Masterminds/semver, for regsync its own.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

from replicator.rules.patterns import explodes

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-\~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_FLAGS = re.compile(r"\(\?([imsU]+)\)")
_GROUP = re.compile(r"\(\?(?::|P<[A-Za-z_][A-Za-z0-9_]*>|[ims]+:)")
_CLASS_NAME = re.compile(r"\[:(\^?)([a-z]+):\]")
_REPETITION = re.compile(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??")
_NO_REPETITION = re.compile(r"\{,[0-9]*\}")
_HEX = re.compile(r"\\x[0-9A-Fa-f]{2}")
_LETTERS = frozenset("dDwWsStnrfvabBA")
_IN_CLASS = frozenset("dDwWsStnrfva")


def translated(pattern: str, *, anchored: bool) -> str:
    """Return ``pattern`` as the rules write expressions: ``/…/``, found anywhere in a tag.

    Args:
        pattern: an expression of Go.
        anchored: whether ``^`` is put in front of it and ``$`` behind, as text: ``a|b`` becomes ``^a|b$``, which is
            found in all that begins with ``a`` or ends with ``b``.

    Raises:
        ValueError: it is none, or there is no equivalent; the message says what of it.
    """
    flags = _FLAGS.match(pattern)
    body = pattern[flags.end() :] if flags else pattern
    front = f"(?{kept})" if flags and (kept := "".join(sorted(set(flags[1]) - {"U"}))) else ""
    if anchored:
        # Go repeats an anchor without complaint, so "*" alone is "^*$", found in every tag; Python doesn't.
        repeated = _REPETITION.match(body)
        optional = repeated is not None and repeated[0].startswith(("*", "?", "{0"))
        body = f"{'' if optional else '^'}{body[repeated.end() :] if repeated else body}$"
    found = front + _Translation(body).read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(found, re.ASCII)
            endless = explodes(found)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if endless:
        # Go's matcher never goes back; Python's would, for ever.
        raise ValueError("has no equivalent: a repetition within a repetition could take for ever here")
    return f"/{found or '^'}/"


class _Translation:
    """One pass over an expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: list[str] = []

    def read(self) -> str:
        repeated = False
        while self._at < len(self._text):
            repetition = _REPETITION.match(self._text, self._at)
            if repetition and repeated:
                # Python takes a+* for something else than nonsense.
                raise ValueError(f"is no regular expression: {repetition[0]!r} repeats a repetition")
            repeated = repetition is not None
            if repetition:
                self._take(repetition[0])
            elif (character := self._text[self._at]) == "\\":
                self._escape(_LETTERS)
            elif character == "[":
                self._class()
            elif character == "(" and self._text.startswith("(?", self._at):
                self._group()
            elif _NO_REPETITION.match(self._text, self._at):
                self._take("{", r"\{")
            else:
                self._take(character)
        return "".join(self._found)

    def _take(self, text: str, instead: str | None = None) -> None:
        self._at += len(text)
        self._found.append(text if instead is None else instead)

    def _escape(self, letters: frozenset[str]) -> None:
        behind = self._text[self._at + 1 : self._at + 2]
        if behind == "z" and "A" in letters:
            self._take(r"\z", r"\Z")
        elif match := _HEX.match(self._text, self._at):
            self._take(match[0])
        elif behind == "_":
            self._take(r"\_", "_")
        elif behind in letters or (behind and behind.isascii() and not behind.isalnum()):
            self._take(f"\\{behind}")
        else:
            raise ValueError(f"has no equivalent: \\{behind} in it is not understood here")

    def _group(self) -> None:
        match = _GROUP.match(self._text, self._at)
        if match is None:
            part = self._text[self._at : self._at + 4]
            raise ValueError(f"has no equivalent: {part!r} in it is not understood here")
        self._take(match[0])

    def _class(self) -> None:
        self._take("[^" if self._text.startswith("[^", self._at) else "[")
        first = True
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "]" and not first:
                self._take("]")
                return
            first = False
            if name := _CLASS_NAME.match(self._text, self._at):
                if name[1] or name[2] not in _POSIX:
                    raise ValueError(f"has no equivalent: {name[0]} in it is not understood here")
                self._take(name[0], _POSIX[name[2]])
            elif character == "\\":
                self._escape(_IN_CLASS)
            elif self._text.startswith("--", self._at):
                raise ValueError("has no equivalent: '--' between brackets is not understood here")
            else:
                # Python warns of what may become operators of sets.
                self._take(character, f"\\{character}" if character in "[&~|]" else character)
        raise ValueError("is no regular expression: a [ without its ]")


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
