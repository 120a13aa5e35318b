"""A message as lines of plain text, within a bound and with no foreign word that could do anything."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from replicator.printing import age

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.notify.message import Message, Origin

_EXAMPLE = 480
"""Characters of one example."""


def tame(text: str, most: int) -> str:
    """Make foreign words one line of at most ``most`` characters, without anything that does not print."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def moment_words(milliseconds: int) -> str:
    """Write a time for a person, in UTC to the second."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lines_of(message: Message, origin: Origin, limit: int, escape: Callable[[str], str] = str) -> list[str]:
    """Write a message as lines: what happened, since when, examples, what to do, where to look.

    Args:
        message: what to tell.
        origin: who tells it.
        limit: bytes of UTF-8 that the escaped lines may have, a line end each included; at least 1,500. What is too
            much is left out from the last example on, and counted.
        escape: what the format does to foreign words.

    Returns:
        The escaped lines, the title first.
    """
    head = [message.title, _facts(message, origin)]
    tail = [tame(each, _EXAMPLE) for each in message.advice]
    if origin.status is not None:
        tail.append(f"Status: {origin.status}")
    tail = [escape(each) for each in tail]
    shown = [escape(each) for each in head]
    room = limit - _size([*shown, *tail]) - len("and 1000000 more") - 1
    written = 0
    for example in message.examples:
        line = escape("- " + tame(f"{example.subject}: {example.reason}", _EXAMPLE))
        if _size([line]) > room:
            break
        room -= _size([line])
        shown.append(line)
        written += 1
    more = (message.count or 0) - written
    if message.examples and more > 0:
        shown.append(f"and {more} more" if written else f"{more} in all")
    return [*shown, *tail]


def _facts(message: Message, origin: Origin) -> str:
    parts = [f"at {tame(origin.name, 100)}", moment_words(message.at)]
    if message.since is not None:
        since = moment_words(message.since)
        parts.append(f"since {since} ({age((message.at - message.since) / 1000)})")
    return ", ".join(parts)


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)
