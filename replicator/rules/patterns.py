"""Globs and regular expressions for the names of repositories and tags.

In a glob ``*`` stands for any run of characters without a slash, ``**`` for any run at all and ``?`` for one character
other than a slash. A regular expression for tags is written between slashes, ``/^v[0-9]+$/``, and is found anywhere
in the tag unless it is anchored.

RE2 runs the expressions (https://github.com/google/re2/wiki/Syntax): its time is linear in the tag, for any
expression. An expression that only Python's ``re`` understands, such as one with a lookahead, stays on ``re``, with a
warning, and is refused where it could backtrack without end.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from replicator.reference import is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_WILDCARD = re.compile(r"[*?]")
_NAME_GLOB = re.compile(r"[a-z0-9._*?-]+(?:/[a-z0-9._*?-]+)*\Z")
_TAG_GLOB = re.compile(r"[A-Za-z0-9._*?-]{1,256}\Z")
_GLOB_PARTS = re.compile(r"\*+|[^*]")
_MOST_PLACES = 20_000
"""Pairs of places in two globs that are looked at to compare the two."""
MAX_PATTERN_LENGTH = 1024
"""Characters in a pattern."""
MAX_MEMORY = 256 * 1024
"""Bytes that RE2 may take for one expression and its states."""

_READ_DIFFERENTLY = re.compile(r"\\[0-9]|\{,[0-9]*\}|\{[0-9,]*[0-9]{5,}|[^\x00-\x7f]")
"""What RE2 accepts with another meaning: ``a{,2}`` is plain text there, and other scripts fold to ASCII letters."""
_CLASS = re.compile(r"\[\^?\]?[^\]]*\[:\^?[a-z]+:\]")
"""A bracket with a class such as ``[:alpha:]``. Python's ``re`` takes ``[:alph`` there for plain characters."""
_ESCAPED = re.compile(r"\\[\x00-/:-\x7f]")
_TOO_LARGE = "too large"
_EXCLUDE = "list what must match under include, and what must not under exclude"
_ADVICE = {
    "(?!": _EXCLUDE,
    "(?<!": _EXCLUDE,
    "++": "a plain + is enough",
    "*+": "a plain * is enough",
    "?+": "a plain ? is enough",
    "(?>": "a plain group is enough",
    "{,": "write {0,",
}
_REASONS = {
    "[:": "a class such as [:alpha:] counts only where it is the first in its brackets; write its characters, as a-z",
    "(?P": "RE2 has no backreference such as (?P=name); write the alternatives out",
    "{": "RE2 repeats a part at most 1000 times, nested repetitions multiplied; a tag has at most 128 characters",
    _TOO_LARGE: f"RE2 would take more than {MAX_MEMORY // 1024} KiB for it; shorten it, or split it into several",
}


class ExpressionError(ValueError):
    """An expression between slashes is refused.

    Attributes:
        reason: the message without the expression, which is its subject.
    """

    def __init__(self, expression: str, reason: str) -> None:
        super().__init__(f"{shorten(f'/{expression}/')} {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TagPattern:
    """A compiled tag, glob or regular expression.

    Attributes:
        search: returns None for a tag that the pattern does not match.
        warning: the expression, why RE2 does not run it, and what to write instead; None if RE2 does.
        reason: the same without the expression.
    """

    search: Callable[[str], object]
    warning: str | None = None
    reason: str | None = None


def is_glob(text: str) -> bool:
    """Tell whether ``text`` has a wildcard."""
    return _WILDCARD.search(text) is not None


def is_expression(text: str) -> bool:
    """Tell whether ``text`` is a regular expression between slashes."""
    return len(text) >= 2 and text[0] == text[-1] == "/"


def literal_prefix(glob: str) -> str:
    """Return the part of ``glob`` before its first wildcard; all of it if it has none."""
    match = _WILDCARD.search(glob)
    return glob[: match.start()] if match else glob


def check_name_glob(text: str) -> None:
    """Check a glob for repositories.

    Raises:
        ValueError: no repository's name can match; the message lists what is allowed.
    """
    if not _NAME_GLOB.match(text) or len(text) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"{shorten(text)} is not a repository pattern: use lower-case letters, digits, . _ - / and the wildcards "
            "* (stops at a slash), ** (crosses slashes), ? (one character)"
        )


@lru_cache(maxsize=1024)
def compile_tag_pattern(text: str) -> TagPattern:
    """Compile a tag, a glob for tags or a regular expression for tags.

    Raises:
        ValueError: ``text`` is none of these; the message says what is wrong.
    """
    if is_expression(text):
        return _compile_expression(text[1:-1])
    # A text without wildcards that is no tag matches nothing, and must not be mistaken for a tag later on.
    if not _TAG_GLOB.match(text) or not (is_glob(text) or is_tag(text)):
        raise ValueError(
            f"{shorten(text)} is not a tag or tag pattern: use letters, digits, . _ - and the wildcards * and ?; "
            "write a regular expression between slashes, e.g. /^v[0-9]+$/"
        )
    return TagPattern(compile_glob(text).search)


def _compile_expression(expression: str) -> TagPattern:
    if not expression:
        raise ValueError("// is an empty regular expression; remove it to mean every tag")
    if len(expression) > MAX_PATTERN_LENGTH:
        raise ExpressionError(
            expression, f"is too long: a regular expression has at most {MAX_PATTERN_LENGTH} characters"
        )
    construct = _read_differently(expression)
    if construct is None:
        compiled, construct = _compile_re2(expression)
        if compiled is not None:
            return TagPattern(compiled)
    try:
        backtracking = _compile_backtracking(expression)
        endless = explodes(expression)
    except RecursionError:
        raise ExpressionError(expression, "has too many groups within groups") from None
    except ValueError as error:
        raise ExpressionError(expression, f"is not a regular expression: {error}") from None
    reason = _reason(construct)
    if endless:
        # Anyone who may push a tag could block the whole process with one.
        raise ExpressionError(
            expression,
            "could take exponential time on a long tag, because it repeats a repetition. RE2, which is never slow, "
            f"can't run it: {reason}",
        )
    return TagPattern(
        backtracking.search, f"{shorten(f'/{expression}/')} can be slow on long tags, because {reason}", reason
    )


def _read_differently(expression: str) -> str | None:
    """Return the part that RE2 and Python's ``re`` both accept, each with another meaning."""
    plain = _ESCAPED.sub(" ", expression)
    different = _READ_DIFFERENTLY.search(plain)
    if different is not None:
        return different[0]
    if _CLASS.search(plain):
        # Python refuses a class that is the first in its brackets, so there RE2's meaning is the only one.
        with contextlib.suppress(ValueError, RecursionError):
            _compile_backtracking(expression)
            return "[:"
    return None


def _reason(construct: str) -> str:
    """Return why RE2 does not run an expression with ``construct``, and what to write instead."""
    for start, advice in _ADVICE.items():
        if construct.startswith(start):
            return f"RE2 has no {construct}; {advice}"
    for start, reason in _REASONS.items():
        if construct.startswith(start):
            return reason
    return f"RE2 has no {construct}; write it without"


def _compile_re2(expression: str) -> tuple[Callable[[str], object] | None, str]:
    """Return what searches a tag for the expression, or None and the part that RE2 lacks."""
    import re2  # only rules with regular expressions pay for loading it

    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.never_capture = True
    # RE2 would write to stderr, and the errors come back as exceptions anyway.
    options.log_errors = False
    try:
        # Only the end of the text is spelt differently; all other syntax that both accept means the same for tags.
        compiled = re2.compile(re.sub(r"\\(?s:.)", lambda match: match[0].replace("Z", "z"), expression), options)
    except re2.error as error:
        _, colon, construct = error.args[0].decode(errors="replace").partition(": ")
        return None, construct if colon else _TOO_LARGE
    # Bytes spare RE2's wrapper a table of offsets for each search.
    return lambda tag: compiled.search(tag.encode(errors="replace")), ""


def _compile_backtracking(expression: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return re.compile(expression, re.ASCII)
    except (re.error, OverflowError, Warning) as error:
        raise ValueError(str(error)) from None


@lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return an expression that matches exactly what ``glob`` means, in time linear in the text for each wildcard.

    A wildcard followed by one at least as wide never has to give characters back: its nearest end leaves the most to
    the next one. So all but the last of a kind are atomic groups, and no glob backtracks without end.
    """
    spans = [_literals(part) for part in re.split(r"\*{2,}", glob)]
    *head, last = spans
    expression = ""
    for index, span in enumerate(head):
        inner = span[0] + "".join(f"(?>[^/]*?{literal})" for literal in span[1:])
        expression += inner if index == 0 else f"(?>.*?{inner})"
    if head:
        expression += ".*"
    expression += last[0] + "".join(f"(?>[^/]*?{literal})" for literal in last[1:-1])
    if len(last) > 1:
        expression += f"[^/]*{last[-1]}"
    return re.compile(rf"\A{expression}\Z", re.DOTALL)


def matching_glob(globs: Iterable[str], name: str) -> str | None:
    """Return the first of some globs that matches ``name``; None if none does."""
    return next((glob for glob in globs if compile_glob(glob).match(name)), None)


def covers_project(glob: str, project: str, *, nested: bool) -> bool:
    """Tell whether a glob matches every repository of a project, as far as its end shows that.

    Args:
        glob: a glob for names.
        project: the name of the project.
        nested: whether a repository's name behind the project may have slashes.
    """
    end = "**" if glob.endswith("**") else "*"
    if not glob.endswith(end) or (nested and end == "*"):
        return False
    beginning = glob if end == "**" else glob.removesuffix(end)
    return compile_glob(beginning).match(f"{project}/") is not None


def may_share(one: str, other: str) -> bool:
    """Tell whether a name may match both globs; for globs that take too long to compare, it may."""
    globs = [[part[:2] for part in _GLOB_PARTS.findall(glob)] for glob in (one, other)]
    waiting = [(0, 0)]
    seen = set(waiting)
    while waiting:
        places = waiting.pop()
        if all(place == len(glob) for place, glob in zip(places, globs, strict=True)) or len(seen) > _MOST_PLACES:
            return True
        reached = {step for step in _steps(places, globs) if step not in seen}
        seen |= reached
        waiting += reached
    return False


def _steps(places: tuple[int, int], globs: list[list[str]]) -> Iterator[tuple[int, int]]:
    """Yield the places that one more character of a name leads to, or the end of a run of them."""
    heads = [glob[place] if place < len(glob) else "" for place, glob in zip(places, globs, strict=True)]
    (first, second), runs = places, [head in ("*", "**") for head in heads]
    if runs[0]:
        yield first + 1, second
    if runs[1]:
        yield first, second + 1
    one, other = heads
    if "" in heads or not (_meet(one, other) and _meet(other, one)):
        return
    yield first + (not runs[0]), second + (not runs[1])


def _meet(one: str, other: str) -> bool:
    """Tell whether two parts of globs can stand for one character, as far as the first one decides."""
    if one == "**":
        return True
    return other != "/" if one in ("*", "?") else other in (one, "*", "**", "?")


def _literals(part: str) -> list[str]:
    return ["".join("[^/]" if char == "?" else re.escape(char) for char in text) for text in part.split("*")]


def shorten(text: str) -> str:
    """Return ``text`` in quotes, cut to 120 characters for a message."""
    return repr(text if len(text) <= 120 else f"{text[:117]}...")


# The guard for expressions that stay on ``re``. Python's matcher backtracks: a repetition inside a repetition, with
# nothing fixed between two rounds, can split a run of characters in twice as many ways for each character more, and
# a tag of 40 is enough to hang. The guard finds the usual forms, (a+)+ and (a+b?)* and (a+a+)+, not all of them.

_parser: Any = vars(re)["_parser"]  # no public API shows an expression's structure
_GREEDY = (_parser.MAX_REPEAT, _parser.MIN_REPEAT)
_MANY = 16
"""Rounds from which on a repetition counts as endless."""

_Items = list[tuple[Any, Any]]


def explodes(expression: str) -> bool:
    """Tell whether the structure of ``expression``, which `re.compile` accepts, shows exponential time."""
    return _explodes(list(_parser.parse(expression)))


def _explodes(items: _Items) -> bool:
    return any(
        (_is_endless(item) and any(map(_is_ambiguous, _sequences(list(item[1][2])))))
        or any(map(_explodes, _within(item)))
        for item in items
    )


def _is_endless(item: tuple[Any, Any]) -> bool:
    return item[0] in _GREEDY and item[1][1] >= _MANY


def _is_ambiguous(sequence: _Items) -> bool:
    """Tell whether a round can be a single repetition and nothing else, or has the same repetition twice in a row."""
    endless = [index for index, item in enumerate(sequence) if _is_endless(item)]
    alone = any(all(_may_be_empty(item) for item in sequence[:at] + sequence[at + 1 :]) for at in endless)
    twice = any(
        later == earlier + 1 and str(sequence[earlier][1][2]) == str(sequence[later][1][2])
        for earlier in endless
        for later in endless
    )
    return alone or twice


def _may_be_empty(item: tuple[Any, Any]) -> bool:
    kind, value = item
    if kind in (*_GREEDY, _parser.POSSESSIVE_REPEAT):
        return bool(value[0] == 0) or all(map(_may_be_empty, value[2]))
    if kind is _parser.SUBPATTERN:
        return all(map(_may_be_empty, value[3]))
    if kind is _parser.BRANCH:
        return any(all(map(_may_be_empty, choice)) for choice in value[1])
    return kind in (_parser.AT, _parser.ASSERT, _parser.ASSERT_NOT)


def _sequences(items: _Items) -> Iterator[_Items]:
    """Return the possible forms of a round: groups inlined, and each branch of an item that is only branches."""
    flat = _opened(items)
    if len(flat) == 1 and flat[0][0] is _parser.BRANCH:
        for choice in flat[0][1][1]:
            yield from _sequences(list(choice))
    else:
        yield flat


def _opened(items: _Items) -> _Items:
    found: _Items = []
    for kind, value in items:
        found += _opened(list(value[3])) if kind is _parser.SUBPATTERN else [(kind, value)]
    return found


def _within(item: tuple[Any, Any]) -> Iterator[_Items]:
    """Return the parts of an item in which the matcher backtracks."""
    kind, value = item
    if kind in (*_GREEDY, _parser.POSSESSIVE_REPEAT):
        yield list(value[2])
    elif kind is _parser.SUBPATTERN:
        yield list(value[3])
    elif kind is _parser.BRANCH:
        yield from map(list, value[1])
    elif kind is _parser.ATOMIC_GROUP:
        yield list(value)
    elif kind in (_parser.ASSERT, _parser.ASSERT_NOT):
        yield list(value[1])
