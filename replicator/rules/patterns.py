"""Globs and regular expressions for names and tags.

A glob: ``*`` is any run of characters without a slash, also none; ``**`` any run, slashes too; ``?`` one character
that is no slash; everything else is itself. Between slashes regular expressions are meant: ``/^v[0-9]+$/`` is found
anywhere in the tag unless it is anchored.

Regular expressions that could keep the matcher busy for ever, told by their form.

Python's matcher goes back and tries again. A repetition within a repetition, with nothing between two rounds that
must be there, splits one run of characters in twice as many ways for each character more: a tag of 40 is enough.
This finds the usual forms, ``(a+)+`` and ``(a+b?)*`` and ``(a+a+)+``, not all there are.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from replicator.reference import is_tag

if TYPE_CHECKING:
    from collections.abc import Iterator

_parser: Any = re._parser  # type: ignore[attr-defined]  # noqa: SLF001 - no public way to see an expression's form
_GREEDY = (_parser.MAX_REPEAT, _parser.MIN_REPEAT)
_MANY = 16
"""Rounds from which on a repetition counts as one without end."""

_Items = list[tuple[Any, Any]]


def explodes(expression: str) -> bool:
    """Tell whether an expression has the form of one that takes exponential time.

    Args:
        expression: one that `re.compile` takes.
    """
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
    """Tell whether a round can be nothing but one run of a repetition, or has the same run twice in a row."""
    endless = [place for place, item in enumerate(sequence) if _is_endless(item)]
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
    """Return what a round can be: groups opened, and each choice of an item that is nothing but choices."""
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
    """Return the parts of an item that are gone through again when it fails; an atomic group is not."""
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


_WILDCARD = re.compile(r"[*?]")
_NAME_GLOB = re.compile(r"[a-z0-9._*?-]+(?:/[a-z0-9._*?-]+)*\Z")
_TAG_GLOB = re.compile(r"[A-Za-z0-9._*?-]{1,256}\Z")
MAX_PATTERN_LENGTH = 1024
"""Characters in a pattern."""


def is_glob(text: str) -> bool:
    """Tell whether ``text`` has a wildcard."""
    return _WILDCARD.search(text) is not None


def is_expression(text: str) -> bool:
    """Tell whether ``text`` is a regular expression between slashes."""
    return len(text) >= 2 and text[0] == text[-1] == "/"


def literal_prefix(glob: str) -> str:
    """Return what stands before the first wildcard of ``glob``; all of it if there is none."""
    match = _WILDCARD.search(glob)
    return glob[: match.start()] if match else glob


def check_name_glob(text: str) -> None:
    """Check a glob for repositories.

    Raises:
        ValueError: no repository's name could match; the message says what is allowed.
    """
    if not _NAME_GLOB.match(text) or len(text) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"{shorten(text)} is no pattern of repositories: lower-case letters, digits, . _ - / and the wildcards "
            "* (stops at a slash), ** (does not), ? (one character)"
        )


def check_tag_pattern(text: str) -> None:
    """Check a tag, a glob for tags, or a regular expression for them.

    Raises:
        ValueError: it is none of these; the message says what is wrong.
    """
    compile_tag_pattern(text)


@lru_cache(maxsize=4096)
def compile_tag_pattern(text: str) -> re.Pattern[str]:
    """Return an expression that ``search`` finds in the tags ``text`` means.

    Raises:
        ValueError: ``text`` is neither a tag, a glob nor a regular expression.
    """
    if is_expression(text):
        return _compile_expression(text[1:-1])
    # What has no wildcard and is no tag either would never match, and must not get far enough to be taken for a tag.
    if not _TAG_GLOB.match(text) or not (is_glob(text) or is_tag(text)):
        raise ValueError(
            f"{shorten(text)} is no tag or pattern of tags: letters, digits, . _ - and the wildcards * and ?; "
            "a regular expression stands between slashes, e.g. /^v[0-9]+$/"
        )
    return compile_glob(text)


def _compile_expression(expression: str) -> re.Pattern[str]:
    if not expression:
        raise ValueError("// is an empty regular expression; leave it out to mean every tag")
    if len(expression) > MAX_PATTERN_LENGTH:
        raise ValueError(f"a regular expression has at most {MAX_PATTERN_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compiled = re.compile(expression, re.ASCII)
            endless = explodes(expression)
    except (re.error, OverflowError, RecursionError, ValueError, Warning) as error:
        raise ValueError(f"{shorten(f'/{expression}/')} is no regular expression: {error}") from None
    if endless:
        # Whoever may push a tag could stop the whole process with one.
        raise ValueError(
            f"{shorten(f'/{expression}/')} could take for ever on a long tag: a repetition within a repetition. Write "
            "the inner one so that it gives nothing back, ++ for + or *+ for *"
        )
    return compiled


@lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return an expression that matches exactly what ``glob`` means, in a time linear in the text for each wildcard.

    A wildcard followed by one at least as wide never needs to give back what it took: its nearest end leaves most
    to the next. So all but the last of a kind are atomic groups, and no pattern can make matching explode.
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


def _literals(part: str) -> list[str]:
    return ["".join("[^/]" if char == "?" else re.escape(char) for char in text) for text in part.split("*")]


def shorten(text: str) -> str:
    """Return ``text`` as a person wrote it, bounded for a message."""
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
