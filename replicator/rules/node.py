"""A place in a rules file: its value, its path, and where to note what is wrong with it.

``${NAME}`` in a value, and addresses to connect to.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.errors import Problem
from replicator.reference import is_registry
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_INTEGER = re.compile(r"[0-9]{1,9}\Z")


def join(path: str, key: str) -> str:
    """Return the path of ``key`` in the mapping at ``path``, e.g. ``images["h/r"].tags``."""
    if not _BARE.match(key):
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``, did you mean 'x'?`` for the nearest of ``known``, or all of them when none is near."""
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"


class Node:
    """One value of the file.

    Args:
        value: what stands there.
        path: how to get there, as in `replicator.errors.Problem`.
        problems: the list that every mistake is added to.
    """

    def __init__(self, value: Any, path: str, problems: list[Problem]) -> None:
        self.value = value
        self.path = path
        self._problems = problems

    def wrong(self, message: str) -> None:
        """Note that something is wrong here."""
        self._problems.append(Problem(self.path, message))

    def child(self, key: str, value: Any) -> Node:
        """Return the place of ``value``, which stands under ``key``."""
        return Node(value, join(self.path, key), self._problems)

    def mapping(self, known: tuple[str, ...] | None = None) -> dict[str, Node] | None:
        """Return the places of a mapping's values, or None if it is no mapping.

        Args:
            known: the keys it may have; others are noted and left out. None: any.
        """
        if not isinstance(self.value, dict):
            self.wrong(f"must be a mapping (key: value), not {_kind(self.value)}")
            return None
        places = {key: self.child(key, value) for key, value in self.value.items()}
        if known is not None:
            for key in [key for key in places if key not in known]:
                places.pop(key).wrong(f"unknown key; {did_you_mean(key, known)}")
        return places

    def items(self) -> list[Node]:
        """Return the places of a list's values; of the value itself if it is no list."""
        if not isinstance(self.value, list):
            return [self]
        return [Node(value, f"{self.path}[{index}]", self._problems) for index, value in enumerate(self.value)]

    def text(self) -> str | None:
        """Return the value if it is a text, whatever it looks like; None if it is none."""
        if isinstance(self.value, str):
            return str(self.value)
        hint = "; put it in quotes if you mean the word" if isinstance(self.value, bool) else ""
        self.wrong(f"must be a text, not {_kind(self.value)}{hint}")
        return None

    def boolean(self) -> bool:
        """Return the value if it is true or false; else False."""
        if isinstance(self.value, bool):
            return self.value
        self.wrong(f"must be true or false, without quotes, not {_kind(self.value)}")
        return False

    def choice(self, known: Iterable[str]) -> str | None:
        """Return the value if it is one of the words ``known``; None if it is none."""
        words = list(known)
        if not isinstance(self.value, str):
            self.wrong(f"must be one of {', '.join(words)}, not {_kind(self.value)}")
        elif self.value in words:
            return str(self.value)
        else:
            self.wrong(f"{shorten(self.value)} has no meaning here; {did_you_mean(self.value, words)}")
        return None

    def positive(self) -> int | None:
        """Return the value if it is a whole number from 1 on; None if it is none."""
        # Only a number without quotes comes in a class of its own; comparing types tells it from a text.
        if type(self.value) is not str and isinstance(self.value, str) and _INTEGER.match(self.value):
            number = int(self.value)
            if number > 0:
                return number
        self.wrong("must be a whole number from 1 on, without quotes")
        return None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "a text"


_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def expand_variables(place: Node, text: str, environ: Mapping[str, str]) -> str | None:
    """Replace every ``${NAME}`` in ``text`` by the variable's value, once; a ``$`` elsewhere is left alone.

    Returns:
        The text, or None if a variable is not set; that is noted at ``place`` without what else stands there.
    """
    names = _VARIABLE.findall(text)
    failed = False
    for name in dict.fromkeys(names):
        if not _VARIABLE_NAME.match(name):
            place.wrong(
                "between ${ and } stands the name of an environment variable: letters, digits and _; "
                "a text that really has ${ in it can be put in a variable of its own"
            )
            failed = True
        elif not environ.get(name):
            place.wrong(f"the environment variable {name} is {'empty' if name in environ else 'not set'}")
            failed = True
    return None if failed else _VARIABLE.sub(lambda match: environ[match[1]], text)


def is_endpoint(text: str) -> bool:
    """Tell whether ``text`` is ``host[:port]``, with or without ``http(s)://``, and no more."""
    try:
        url = URL(text if "://" in text else f"https://{text}")
    except ValueError:
        return False
    if url.scheme not in {"http", "https"} or not url.host:
        return False
    # Nothing but scheme, host and port: a login here would end up in logs, a path would be dropped unnoticed.
    bare = url == url.origin().with_path(url.path[:1])
    return bare and is_registry(f"{url.host_subcomponent}:{url.port}")
