"""The languages of the status page: which one a browser gets, and the catalogue of all the words that the page says.

The catalogue is ``templates/messages.json``: keys, and for each the message in every language. A message may have
placeholders (``{name}``) and, in English, two forms with a bar between them: for a ``number`` of 1, and for others.
What comes from elsewhere stays as it is: names, commands, keys of a configuration, and the text of an error, which
people search for.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from replicator.console import age, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

LANGUAGES = {"en": "en", "zh": "zh-CN"}
"""The languages, each with its tag for HTML (RFC 5646); the first is that of a browser that wants none of them."""
COOKIE = "replicator_language"
"""Keeps the language that was chosen on the page."""
_MAX_WANTED = 20
"""Languages of an ``Accept-Language`` header that are looked at."""


@cache
def _catalogue() -> Mapping[str, Mapping[str, str]]:
    text = (files(__package__) / "templates" / "messages.json").read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, str]] = json.loads(text)
    return catalogue


class Messages:
    """The messages of one language; called with a key and its values, it returns the text.

    Args:
        language: one of `LANGUAGES`.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.tag = LANGUAGES[language]
        self.other = next(each for each in LANGUAGES if each != language)
        self._catalogue = _catalogue()

    def __call__(self, key: str, **values: Any) -> str:
        """Return a message.

        Args:
            key: of the catalogue; one that is missing is a KeyError.
            values: of its placeholders. Whole numbers get separators, and foreign text loses what is not printable.
        """
        text = self._catalogue[key][self.language]
        if "|" in text:
            one, _, many = text.partition("|")
            text = one if values.get("number") == 1 else many
        return text.format_map({name: _shown(value) for name, value in values.items()})

    def word(self, kind: str, word: str) -> str:
        """Return a word of the program, e.g. a result, in this language; as it is where the catalogue lacks it."""
        known = self._catalogue.get(f"{kind}.{word}")
        return printable(word) if known is None else known[self.language]

    def age(self, seconds: float) -> str:
        """Format a duration in its largest unit: ``42 s``, ``5 min``."""
        return self._unit(age(seconds))

    def duration(self, seconds: float) -> str:
        """Format a duration, with one decimal below ten seconds: ``0.3 s``, ``42 s``, ``5 min``."""
        return self._unit(f"{seconds:.1f} s" if seconds < 10 else age(seconds))

    def _unit(self, text: str) -> str:
        value, _, unit = text.partition(" ")
        return self(f"unit.{unit}", value=value)


@cache
def messages(language: str) -> Messages:
    """Return the messages of one of the `LANGUAGES`."""
    return Messages(language)


def choose_language(query: str, cookie: str, accepted: str) -> str:
    """Return the language to answer in, one of `LANGUAGES`.

    Args:
        query: what the address asks for; empty if nothing.
        cookie: what was chosen before; empty if nothing.
        accepted: the ``Accept-Language`` header (RFC 9110, section 12.5.4).
    """
    for chosen in (query, cookie):
        if chosen in LANGUAGES:
            return chosen
    best, most = next(iter(LANGUAGES)), 0.0
    for wanted in accepted.split(",")[:_MAX_WANTED]:
        tag, _, parameter = wanted.partition(";")
        language = tag.strip().partition("-")[0].lower()
        quality = _quality(parameter)
        # Of two that are wanted alike, the first one counts.
        if language in LANGUAGES and quality > most:
            best, most = language, quality
    return best


def _quality(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if not parameter.strip():
        return 1.0
    try:
        return min(1.0, float(value)) if name.strip().lower() == "q" else 0.0
    except ValueError:
        return 0.0


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))
