"""Regular expressions that could keep the matcher busy for ever, told by their form.

Python's matcher goes back and tries again. A repetition within a repetition, with nothing between two rounds that
must be there, splits one run of characters in twice as many ways for each character more: a tag of 40 is enough.
This finds the usual forms, ``(a+)+`` and ``(a+b?)*`` and ``(a+a+)+``, not all there are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

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
