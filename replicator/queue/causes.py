"""Failures grouped by cause: a hundred images that one permission keeps out have one cause, not a hundred.

Two failures have the same cause if they agree in the class, in the host and the namespace that they happened at, and
in the message once names, digests, sizes, times and request ids are taken out of it. `Causes` groups failures one by
one, and keeps nothing of them but a few examples. `replicator.queue.cause_reader` reads a queue's dead letters so.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from replicator.console import iso
from replicator.errors import ErrorText, class_word

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from replicator.queue.dead_letters import DeadLetter

EXAMPLES = 5
"""Examples that a cause keeps, the oldest failures."""
GROUPS = (100, 120, 140)
"""Causes up to which a new one is kept apart by its message, by its namespace, by its host; then by its class alone."""
VARIOUS = "various reasons"
"""The text of the cause that collects all those beyond the bounds."""
_ID_LENGTH = 10
_STANDS_FOR = "…"


class Example(NamedTuple):
    """One failure of a cause: source and destination of the copy. The source is empty if it is not known."""

    source: str
    destination: str

    def __str__(self) -> str:
        return " -> ".join(filter(None, self))


@dataclass(frozen=True, slots=True)
class CauseKey:
    """The fields that all failures of one cause share; an empty field matches any value.

    Attributes:
        error_class: the class of the failures, as a word.
        host: the registry that they happened at.
        namespace: the first part of the repository's name there; empty for a name of one part.
        message: what and why, without names.
    """

    error_class: str
    host: str = ""
    namespace: str = ""
    message: str = ""

    @property
    def id(self) -> str:
        """A short name that is the same in every process, and as long as the cause lasts."""
        text = "\0".join((self.error_class, self.host, self.namespace, self.message))
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_ID_LENGTH]


@dataclass(slots=True)
class Cause:
    """A cause with its failures.

    Attributes:
        id: see `CauseKey.id`.
        text: what happened, why, and what to do; where the failures differ in a part, names are taken out of it.
        count: how many failures.
        first: time of the first failure (UTC); None if no failure has a time.
        last: time of the last one (UTC).
        examples: the first few.
    """

    id: str
    error_class: str
    host: str
    namespace: str
    text: ErrorText
    count: int = 0
    first: datetime | None = None
    last: datetime | None = None
    examples: list[Example] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The host and the namespace, e.g. ``registry.example.com/team``; empty if the cause has several hosts."""
        return "/".join(filter(None, (self.host, self.namespace)))

    @property
    def sentence(self) -> str:
        """Say how many copies failed, where and why, in a line."""
        copies = "1 copy" if self.count == 1 else f"{self.count:,} copies, one reason"
        if not self.text.why and self.text.what == VARIOUS:
            copies = copies.replace("one reason", VARIOUS)
            return f"{copies}{f' at {self.where}' if self.where else ''}"
        return f"{copies}: {self.where}: {self.text.why or self.text.what}"

    def command(self, action: str = "") -> str:
        """Return the command that shows its failures, or that does something to them (``retry``, ``drop``)."""
        return f"replicator failures {action + ' ' if action else ''}--cause {self.id}"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; times are RFC 3339 in UTC, null where no failure has one."""
        return {
            "cause": self.id,
            "error_class": class_word(self.error_class),
            "host": self.host,
            "namespace": self.namespace,
            "count": self.count,
            **self.text.to_json(),
            "first": None if self.first is None else iso(self.first),
            "last": None if self.last is None else iso(self.last),
            "examples": [{"source": each.source or None, "destination": each.destination} for each in self.examples],
        }


class Causes:
    """Groups failures by cause, in a space that does not grow with their number.

    Beyond the bounds of `GROUPS`, a failure with yet another cause counts to a coarser one. So which cause a failure
    counts to may depend on those before it, while each counts to exactly one.
    """

    def __init__(self) -> None:
        self.total = 0
        self._causes: dict[CauseKey, Cause] = {}

    def add(
        self,
        error_class: str,
        message: str,
        source: str,
        destination: str,
        *,
        first: datetime | None = None,
        last: datetime | None = None,
    ) -> Cause:
        """Count a failure.

        Args:
            error_class: its class; empty if that is not known.
            message: as `replicator.errors.ErrorText.stored`.
            source: the reference that was to be copied; empty if it is not known.
            destination: the reference where it was to be copied; the same.
            first: time of the first failed attempt (UTC).
            last: time of the last one (UTC).

        Returns:
            The cause that it counts to.
        """
        text = ErrorText.parse(message)
        names = _Names(source, destination)
        full = names.key(error_class, text)
        key = self._place(full)
        cause = self._causes.get(key)
        if cause is None:
            said = text if key == full else ErrorText(VARIOUS)
            cause = Cause(key.id, key.error_class, key.host, key.namespace, said)
            self._causes[key] = cause
        elif key == full and cause.text != text:
            cause.text = _common(cause.text, text, names)
        cause.count += 1
        self.total += 1
        if len(cause.examples) < EXAMPLES:
            cause.examples.append(Example(source, destination))
        if first is not None and (cause.first is None or first < cause.first):
            cause.first = first
        if last is not None and (cause.last is None or last > cause.last):
            cause.last = last
        return cause

    def add_letter(self, letter: DeadLetter) -> Cause:
        """Count a dead letter, and return the cause that it counts to."""
        source = str((letter.payload or {}).get("source") or "")
        return self.add(
            str(letter.error_class), letter.message, source, letter.id, first=letter.first, last=letter.last
        )

    def sorted(self) -> list[Cause]:
        """List the causes, the one with the most failures first."""
        return sorted(self._causes.values(), key=lambda cause: (-cause.count, cause.id))

    def _place(self, key: CauseKey) -> CauseKey:
        coarser = (key, CauseKey(key.error_class, key.host, key.namespace), CauseKey(key.error_class, key.host))
        for each, most in zip(coarser, GROUPS, strict=True):
            if each in self._causes or len(self._causes) < most:
                return each
        return CauseKey(key.error_class)


class _Names:
    """The names of one failure, which are taken out of its message."""

    def __init__(self, source: str, destination: str) -> None:
        self._repositories = [_repository(each) for each in (destination, source) if each]
        self._tags = {tag for each in (destination, source) if (tag := _tag(each))}

    def key(self, error_class: str, text: ErrorText) -> CauseKey:
        """Return what a failure has in common with others of its cause."""
        host, namespace = self._where(f"{text.what} {text.why}")
        return CauseKey(error_class, host, namespace, f"{self.without(text.what)}\n{self.without(text.why)}")

    def _where(self, words: str) -> tuple[str, str]:
        """Return the host and the namespace that a message is about: the destination's, unless it names the source."""
        if not self._repositories:
            return "", ""

        def place(repository: tuple[str, str]) -> tuple[bool, int]:
            host, name = repository
            at = words.find(host)
            # Two repositories of one host differ by their names.
            return name not in words, at if at >= 0 else len(words)

        # Of two that are named alike, min() takes the destination.
        named = [each for each in self._repositories if each[0] in words]
        host, name = min(named, key=place) if named else self._repositories[0]
        namespace, slash, _ = name.partition("/")
        return host, namespace if slash else ""

    def without(self, text: str) -> str:
        """Remove from a text every name of a single image, request or moment."""
        for host, name in self._repositories:
            if name and name in text:
                namespace, slash, _ = name.partition("/")
                short = f"{namespace}/{_STANDS_FOR}" if slash else _STANDS_FOR
                text = text.replace(f"{host}/{name}", f"{host}/{short}").replace(f"/v2/{name}/", f"/v2/{short}/")
                text = _replaced(text, name, short)
        for tag in self._tags:
            text = _replaced(text, tag, _STANDS_FOR)
        return _without_variables(text)


_INSIDE = frozenset("_-.")
"""What a name may have inside, beside letters and digits."""


def _replaced(text: str, name: str, other: str) -> str:
    """Replace a name that is a word by itself: between quotes, slashes or colons if it might be a plain word.

    Without a pattern, as to compile one for each name takes most of the time.
    """
    is_word = name.isalpha()
    parts, end = list[str](), 0
    at = text.find(name)
    while at >= 0:
        before, behind = text[at - 1 : at], text[at + len(name) : at + len(name) + 2]
        free = before in _MARKS if is_word else not (before.isalnum() or before in _INSIDE)
        if free and not (
            behind[:1].isalnum() or behind[:1] in ("_", "-") or (behind[:1] == "." and behind[1:].isalnum())
        ):
            parts += [text[end:at], other]
            end = at + len(name)
        at = text.find(name, at + len(name))
    return "".join([*parts, text[end:]]) if end else text


_MARKS = frozenset("/:@'\"`(")


@lru_cache(maxsize=1024)
def _without_variables(text: str) -> str:
    """Apply the patterns. Most failures of a cause have the same text by then."""
    for pattern, replacement in _patterns():
        text = pattern.sub(replacement, text)
    return text


_ALONE, _END = r"(?<![\w.…-])", r"(?![\w-]|\.\w)"
_STATUS = r"(?:40\d|41\d|42\d|431|451|499|50\d|51[01]|52\d)"
_VARIABLE: Sequence[tuple[str, str]] = (
    # What a request is about: the repository is that of the group, and the rest names one image.
    (r"(/(?:manifests|blobs|referrers)/)[^\s,;'\")]+", rf"\1{_STANDS_FOR}"),
    (r"\bsha(?:256|512)[:-][0-9a-f]{6,}…?", _STANDS_FOR),
    # Other images than the failure's own, as in a collision, and addresses.
    (
        (
            r"((?:https?://)?(?<![\w.-])[A-Za-z0-9][A-Za-z0-9-]*(?:(?:\.[A-Za-z0-9-]+)+(?::\d+)?|:\d+))"
            r"/(?!v2/)[^\s,;'\")]*[^\s,;'\").:]"
        ),
        rf"\1/{_STANDS_FOR}",
    ),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?", _STANDS_FOR),
    # Ids of requests: hexadecimal, or a long word of letters and digits.
    (rf"{_ALONE}(?=[0-9A-Fa-f-]*\d)[0-9A-Fa-f]{{8}}[0-9A-Fa-f-]*{_END}", _STANDS_FOR),
    (rf"{_ALONE}(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[A-Za-z0-9_-]{{16,}}{_END}", _STANDS_FOR),
    # Sizes, durations and numbers; the status of an answer tells causes apart.
    (
        (
            rf"{_ALONE}(?!{_STATUS}(?![\d.]|,\d| (?:s|ms|min|h|d|[kMGT]?i?B|bytes|seconds|of|in|tags|requests)\b))"
            rf"\d[\d.,:]*(?:[kMGT]i?B?|B|ms|s|m|h)?{_END}"
        ),
        _STANDS_FOR,
    ),
)
"""Patterns of what differs between failures of one cause."""


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    # Compiled at their first use: that takes longer than the rest of most commands' import of the queue.
    return [(re.compile(pattern), replacement) for pattern, replacement in _VARIABLE]


def _repository(reference: str) -> tuple[str, str]:
    """Return the host and the name of a reference, which is any text where an older version stored it."""
    host, _, rest = reference.partition("@")[0].partition("/")
    name, colon, tag = rest.rpartition(":")
    return host, name if colon and "/" not in tag else rest


def _tag(reference: str) -> str:
    _, colon, tag = reference.partition("@")[0].rpartition(":")
    return tag if colon and "/" not in tag else ""


def _common(known: ErrorText, new: ErrorText, names: _Names) -> ErrorText:
    """Return a text for two failures of one cause: the parts that are equal as they are, the others without names."""

    def part(one: str, other: str) -> str:
        return one if one == other else names.without(other)

    return ErrorText(part(known.what, new.what), part(known.why, new.why), part(known.do, new.do))
