"""Deterministic mutations of valid inputs: of text anywhere, of JSON also in its values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

MAX_INPUT = 64 * 1024
"""Characters of an input: what is asked of headers and small documents. Bodies may be larger, at a linear price."""
_LONG_ONCE_IN = 500
"""Of so many inputs one is made long: what takes more than linear time shows itself only there."""
_ODD_TEXTS = (
    "",
    "\0",
    "\ud800",
    "\x1b[2J",
    "\u202e",
    "²",
    "\u0661",
    "ß",
    "\ufeff",
    "../..",
    "%2e%2e%2f",
    "a" * 300,
    "\r\n",
    "${X}",
    "{name}",
    "**",
    "/(/",
    "sha256:",
    "http://h/",
    "NaN",
    "-1",
    "1e999",
)
_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**63,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": ""},
)


def mutated(seeds: Sequence[str], random: Random) -> str:
    """Return one of the seeds with one to eight damages.

    Args:
        seeds: valid inputs.
        random: decides everything, so an input can be made again from its seed.
    """
    text = random.choice(seeds)
    if text[:1] in ("{", "[") and random.random() < 0.5:
        text = _of_values(text, random)
        if random.random() < 0.5:
            return text[:MAX_INPUT]
    for _ in range(random.choice((1, 1, 1, 2, 3, 5, 8))):
        text = random.choice(_DAMAGES)(text, seeds, random)
    if random.randrange(_LONG_ONCE_IN) == 0:
        start, end = _span(text, random)
        part = text[start:end] or random.choice(_ODD_TEXTS) or " "
        text = text[:end] + part * (random.choice((1000, 8000, MAX_INPUT)) // len(part)) + text[end:]
    return text[:MAX_INPUT]


def _of_values(text: str, random: Random) -> str:
    try:
        document = json.loads(text)
    except ValueError:
        return text
    for _ in range(random.choice((1, 1, 2, 4))):
        document = _of_one_value(document, document, random)
    return json.dumps(document, ensure_ascii=random.random() < 0.5)


def _of_one_value(value: Any, whole: Any, random: Random) -> Any:
    """Go down to some value, and put another in its place."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        match random.randrange(8):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, random.choice(_ODD_TEXTS): value[key]}
            case _:
                return {**value, key: _of_one_value(value[key], whole, random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        match random.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[: at + 1] * random.choice((2, 3, 50))
            case _:
                return [*value[:at], _of_one_value(value[at], whole, random), *value[at + 1 :]]
    return _another(value, whole, random)


def _another(value: Any, whole: Any, random: Random) -> Any:
    match random.randrange(8):
        case 5 | 6 | 7 if isinstance(value, str):
            # What is right elsewhere.
            return random.choice(_texts(whole) or [""])
        case 0 if isinstance(value, str):
            return _DAMAGES[random.randrange(len(_DAMAGES))](value, [value], random)
        case 1:
            return random.choice(_ODD_TEXTS)
        case 2:
            return whole if len(repr(whole)) < 2000 else None
        case 3:
            nested: Any = value
            for _ in range(random.choice((1, 3, 40))):
                nested = [nested] if random.random() < 0.5 else {"a": nested}
            return nested
        case _:
            return random.choice(_ODD_VALUES)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _span(text: str, random: Random) -> tuple[int, int]:
    start = random.randrange(len(text) + 1)
    return start, min(len(text), start + random.choice((0, 1, 1, 2, 4, 10, 40)))


def _cut(text: str, _: Sequence[str], random: Random) -> str:
    start, end = _span(text, random)
    return text[:start] + text[end:]


def _break_off(text: str, _: Sequence[str], random: Random) -> str:
    return text[: random.randrange(len(text) + 1)]


def _repeat(text: str, _: Sequence[str], random: Random) -> str:
    start, end = _span(text, random)
    return text[:end] + text[start:end] * random.choice((1, 2, 10)) + text[end:]


def _move(text: str, _: Sequence[str], random: Random) -> str:
    start, end = _span(text, random)
    at = random.randrange(len(text) + 1)
    return text[:at] + text[start:end] + text[at:]


def _splice(text: str, seeds: Sequence[str], random: Random) -> str:
    other = random.choice(seeds)
    return text[: random.randrange(len(text) + 1)] + other[random.randrange(len(other) + 1) :]


def _character(text: str, _: Sequence[str], random: Random) -> str:
    at = random.randrange(len(text) + 1)
    # From what is in the text, from ASCII, or from anywhere.
    new = random.choice((random.choice(text or " "), chr(random.randrange(128)), chr(random.randrange(0x11_0000))))
    return text[:at] + new + text[at + random.randrange(2) :]


def _odd(text: str, _: Sequence[str], random: Random) -> str:
    start, end = _span(text, random)
    return text[:start] + random.choice(_ODD_TEXTS) + text[end:]


def _case(text: str, _: Sequence[str], random: Random) -> str:
    start, end = _span(text, random)
    return text[:start] + text[start:end].swapcase() + text[end:]


_DAMAGES: tuple[Callable[[str, Sequence[str], Random], str], ...] = (
    _cut,
    _break_off,
    _repeat,
    _move,
    _splice,
    _character,
    _character,
    _odd,
    _case,
)
