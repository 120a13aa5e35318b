"""Nodes of a rules file: typed access to a value, with every mistake noted under the value's path.

A node never raises. A method returns None or an empty value for a mistake and adds a problem to the shared list, so
that reading goes on and all mistakes of a file are reported together.
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


_USER_INFO = re.compile(r"//[^/]*@")
_BOOLEANS = {"yes": True, "y": True, "on": True, "no": False, "n": False, "off": False}
"""YAML 1.1's other words for them, which image-syncer takes."""


def join(path: str, key: str) -> str:
    """Return the path of ``key`` in the mapping at ``path``, e.g. ``images["h/r"].tags``; without a URL's login."""
    if not _BARE.match(key):
        key = _USER_INFO.sub("//…@", key)
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean x?`` for the most similar of ``known``, or all of them if none is similar."""
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"


class Plain(str):
    """A scalar without quotes that is neither null nor a boolean."""

    __slots__ = ()


class Node:
    """One value of the file.

    Args:
        value: as `replicator.rules.document.read_document` returns it.
        path: see `replicator.errors.Problem`.
        problems: the list that every mistake is added to.
    """

    def __init__(self, value: Any, path: str, problems: list[Problem]) -> None:
        self.value = value
        self.path = path
        self._problems = problems

    def wrong(self, message: str) -> None:
        """Note a mistake."""
        self._problems.append(Problem(self.path, message))

    def child(self, key: str, value: Any) -> Node:
        """Return a node for ``value`` under ``key``."""
        return Node(value, join(self.path, key), self._problems)

    def mapping(self, known: tuple[str, ...] | None = None) -> dict[str, Node] | None:
        """Return the nodes of a mapping's values, or None if the value is no mapping.

        Args:
            known: the allowed keys; others are noted and left out. None allows any key.
        """
        if not isinstance(self.value, dict):
            self.wrong(f"must be a mapping (key: value), not {_kind(self.value)}")
            return None
        nodes = {key: self.child(key, value) for key, value in self.value.items()}
        if known is not None:
            for key in [key for key in nodes if key not in known]:
                found, field = nodes.pop(key), re.match(r"(\w+) *[:=]", key)
                if field and field[1] in known:
                    # Without its space, "password:value" is all of it a key.
                    self.wrong(f"{field[1]} needs a colon and a space before its value")
                else:
                    found.wrong(f"unknown key; {did_you_mean(key, known)}")
        return nodes

    def items(self) -> list[Node]:
        """Return the nodes of a list's values; a value that is no list counts as a list of one."""
        if not isinstance(self.value, list):
            return [self]
        return [Node(value, f"{self.path}[{index}]", self._problems) for index, value in enumerate(self.value)]

    def text(self) -> str | None:
        """Return the value if it is a string, with quotes or without; else None."""
        if isinstance(self.value, str):
            return str(self.value)
        hint = "; quote it if you mean the word" if isinstance(self.value, bool) else ""
        self.wrong(f"must be a string, not {_kind(self.value)}{hint}")
        return None

    def boolean(self) -> bool:
        """Return the value if it is true or false; else False."""
        if isinstance(self.value, bool):
            return self.value
        if isinstance(self.value, Plain) and self.value.lower() in _BOOLEANS:
            return _BOOLEANS[self.value.lower()]
        self.wrong(f"must be true or false, without quotes, not {_kind(self.value)}")
        return False

    def choice(self, known: Iterable[str]) -> str | None:
        """Return the value if it is one of the words ``known``; else None."""
        words = list(known)
        if not isinstance(self.value, str):
            self.wrong(f"must be one of {', '.join(words)}, not {_kind(self.value)}")
        elif self.value in words:
            return str(self.value)
        else:
            self.wrong(f"{shorten(self.value)} is unknown; {did_you_mean(self.value, words)}")
        return None

    def positive(self) -> int | None:
        """Return the value if it is a positive integer; else None."""
        if isinstance(self.value, Plain) and _INTEGER.match(self.value) and (number := int(self.value)) > 0:
            return number
        is_large = isinstance(self.value, Plain) and self.value.isdecimal() and self.value.strip("0")
        self.wrong("is too large: at most 999999999" if is_large else "must be a positive integer, without quotes")
        return None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "a string"


_RULE_PATH = re.compile(r'(?:\["(?:[^"\\]|\\.)*"\]|\.[\w-]+)')


def in_order(problems: list[Problem], images: Node | None) -> list[Problem]:
    """Sort problems of ``images`` by their rule, in the order of the file."""
    if images is None or not isinstance(images.value, dict):
        return problems
    order = {join("", key): number for number, key in enumerate(images.value)}

    def number(problem: Problem) -> int:
        match = _RULE_PATH.match(problem.path.removeprefix(images.path))
        return order.get(match[0].removeprefix("."), -1) if match else -1

    return sorted(problems, key=number)


VARIABLE = re.compile(r"\$\{([^}]*)\}")
"""A variable in braces; its name is the group."""
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def expand_variables(node: Node, text: str, environ: Mapping[str, str]) -> str | None:
    """Replace every ``${NAME}`` in ``text`` by the variable's value; a value is not expanded again.

    Returns:
        The text, or None if a variable is not set or empty. The problem noted names the variable and never the text,
        which may be part of a password.
    """
    names = VARIABLE.findall(text)
    failed = False
    for name in dict.fromkeys(names):
        if not _VARIABLE_NAME.match(name):
            node.wrong(
                "${…} must contain the name of an environment variable: letters, digits and _; "
                "to use ${ literally, put the whole string in a variable"
            )
            failed = True
        elif not environ.get(name):
            node.wrong(f"the environment variable {name} is {'empty' if name in environ else 'not set'}")
            failed = True
    return None if failed else VARIABLE.sub(lambda match: environ[match[1]], text)


_UNBRACED = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def expand_name(node: Node, text: str, environ: Mapping[str, str]) -> str | None:
    """Replace the variables in an image's name, see `expand_variables` and `with_braces`."""
    return expand_variables(node, with_braces(text), environ)


def with_braces(text: str) -> str:
    """Return an image's name with ``${NAME}`` for each ``$NAME``, as image-syncer takes both.

    A ``$`` without braces in a regular expression for tags is the end of the text.
    """
    name, mark, expression = text.partition(":/")
    return _UNBRACED.sub(r"${\1}", name) + mark + expression


def named_variable(text: str) -> str | None:
    """Return the name if all of ``text`` is ``$NAME``; else None."""
    match = _UNBRACED.fullmatch(text)
    return match[1] if match else None


def is_endpoint(text: str) -> bool:
    """Tell whether ``text`` is exactly ``host[:port]``, with or without ``http(s)://``."""
    try:
        url = URL(text if "://" in text else f"https://{text}")
    except ValueError:
        return False
    if url.scheme not in {"http", "https"} or not url.host:
        return False
    # A login in the URL would end up in logs, and a path would be dropped silently.
    bare = url == url.origin().with_path(url.path[:1])
    return bare and is_registry(f"{url.host_subcomponent}:{url.port}")
