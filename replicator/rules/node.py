"""Nodes of a rules file: typed access to a value, with every mistake noted under the value's path.

A node never raises. A method returns None or an empty value for a mistake and adds a problem to the shared list, so
that reading goes on and all mistakes of a file are reported together.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.env_file import Variables
from replicator.errors import Problem
from replicator.reference import is_registry
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yaml import MarkedYAMLError
    from yaml.error import Mark

MAX_VALUES = 100_000
"""Values in a file; each repetition by an alias counts."""
MAX_DEPTH = 32
"""Levels of nesting in a file. Rules need six."""
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_INTEGER = re.compile(r"[0-9]{1,9}\Z")


_USER_INFO = re.compile(r"(^|//)[^/]*@(?!sha\d+:)")
_LOGIN = re.compile(
    r'(?:(?:(?:.*: )?auth)?(?:\["(?:[^"\\]|\\.)*"\]|\.[\w-]+)(?:\.aliyun)?|creds\[[0-9]+\]|.*\.credentials?)\Z',
    re.DOTALL,
)
"""The path of a mapping with a login, in rules and in the files of other programs."""
_LOGIN_FIELDS = (
    *("username", "password", "aliyun", "insecure", "ca_file", "endpoint", "proxy", "anonymous", "quiet_pulls"),
    *("access_key_id", "access_key_secret", "security_token", "region", "instance_id", "openapi_endpoint", "create"),
    *("registry", "user", "pass", "token", "tls", "hostname", "regcert", "credHelper", "credExpire", "credHost"),
    *("mirrors", "clientCert", "clientKey", "pathPrefix", "priority", "repoAuth", "api", "apiOpts", "blobChunk"),
    *("images", "images-by-tag-regex", "images-by-semver", "credentials", "tls-verify", "cert-dir", "to", "tags"),
    *("blobMax", "reqPerSec", "reqConcurrent", "scheme", "identitytoken", "type", "access_key", "access_secret"),
)
"""Keys that belong there. A slip can make a key of a password, so no other key is shown."""
HIDDEN = "…"
"""What is shown in place of such a key."""
_BOOLEANS = {"yes": True, "y": True, "on": True, "no": False, "n": False, "off": False}
"""YAML 1.1's other words for them, which image-syncer takes."""


def join(path: str, key: str) -> str:
    """Return the path of ``key`` in the mapping at ``path``, e.g. ``images["h/r"].tags``; without what may be a secret.

    In a mapping with a login, a key is shown if it is one that belongs there, or one with a letter missing or added.
    """
    if _LOGIN.match(path) and not any(_is_nearly(key, field) for field in _LOGIN_FIELDS):
        key = HIDDEN
    if not _BARE.match(key):
        key = without_login(key)
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def without_login(text: str) -> str:
    """Return the name of an image without a login before its host."""
    return _USER_INFO.sub(rf"\1{HIDDEN}@", text)


def _is_nearly(key: str, field: str) -> bool:
    return key == field or (abs(len(key) - len(field)) < 2 and bool(get_close_matches(key, [field], cutoff=0.85)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean x?`` for the most similar of ``known``, or all of them if none is similar."""
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a file.

    Attributes:
        value: dictionaries, lists, strings, `Plain`, booleans and None; None also if the text can't be read.
        problems: mistakes in the text itself.
        readable: whether `value` is usable: there may be duplicate keys, of which the first counts.
    """

    value: Any
    problems: tuple[Problem, ...] = ()
    readable: bool = True


def unreadable(path: str, message: str) -> Document:
    """Return what is read of a text with a mistake that leaves nothing of it usable."""
    return Document(None, (Problem(path, message),), readable=False)


def is_unicode(text: str) -> bool:
    """Tell whether a text can be encoded: a surrogate without its pair can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
                elif HIDDEN in found.path:
                    number = list(self.value).index(key) + 1
                    self.wrong(f"unknown key, number {number} of {len(self.value)}; expected one of {', '.join(known)}")
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
            shown = "is unknown" if _LOGIN.match(self.path.rpartition(".")[0]) else f"{shorten(self.value)} is unknown"
            self.wrong(f"{shown}; {did_you_mean(self.value, words)}")
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


_TOKEN = re.compile(r"'(?:<[a-z ]+>|[]}?,:-]|<<|\.\.\.)'")
"""PyYAML's name of a token in its messages. Any other quotation is a piece of the file."""
_LINE_BREAKS = "\n\r\x85\u2028\u2029"
_ADVICE = {
    "did not find expected key": "indent the keys of one mapping alike, and put a space after each colon",
    "expected <block end>": "indent the keys of one mapping alike",
    "mapping values are not allowed": "indent the keys of one mapping alike, here and in the line above, put a space "
    "after each colon, and quote a value that has a colon and a space",
    "violates indentation": "indent with spaces",
    "unexpected end of stream": "close the quotation mark",
    "unknown escape": "in double quotes write \\\\ for a backslash, or use single quotes",
    "another document": "a rules file has one document: remove ---",
    "scanning an alias": "quote a string that begins with * or &",
    "scanning an anchor": "quote a string that begins with * or &",
    "scanning a tag": "quote a string that begins with !",
    "expected , or ": "close the bracket, and quote a string with a comma, a #, or a colon and a space",
    "could not find expected :": "write each line as key: value, and remove what a merge left behind",
}
"""What to do, by a part of the parser's message and its context."""
NO_COMMENTS = "; JSON has no comments: remove this one, or begin it with #"
"""What to do about a comment of JavaScript."""


def json_problem(error: json.JSONDecodeError) -> str:
    """Return the parser's own words with line and column, and what to do; nothing of the file is in them."""
    advice = ""
    if error.doc[error.pos :].lstrip().startswith(("//", "/*")):
        advice = NO_COMMENTS
    elif error.msg.startswith("Unterminated string"):
        advice = "; close its quotation mark"
    elif "escape" in error.msg:
        advice = "; in a string write \\\\ for a backslash"
    elif error.msg.startswith("Expecting ',' delimiter"):
        advice = "; put a comma between two entries, and close every bracket"
    elif error.msg == "Extra data":
        advice = "; a rules file has one document"
    return f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}){advice}"


def yaml_problem(error: MarkedYAMLError, text: str, *, with_libyaml: bool) -> str:
    """Return the parser's own words with line and column, and what to do; nothing of the file is in them.

    Args:
        error: the error of PyYAML.
        text: the content of the file.
        with_libyaml: whether libyaml was the parser: it quotes its own tokens only.
    """
    message, mark = error.problem or "unexpected end", error.problem_mark
    place = _place(mark, text, with_libyaml=with_libyaml)
    words = f"{message} {error.context}".replace("'", "")
    advice = next((advice for part, advice in _ADVICE.items() if part in words), "")
    if "\uff1a" in text and "mapping values" in message:
        advice = "write : and a space in place of the full-width colon"
    if "alias" in message or "anchor" in message:
        message, advice = "an alias (*) without an anchor (&)", "quote a string that begins with * or &"
    elif "cannot start any token" in message:
        is_tab = mark is not None and text[mark.index : mark.index + 1] == "\t"
        message = f"found a {'tab' if is_tab else 'character'} that cannot start any token"
        advice = "indent with spaces" if is_tab else "quote a string that begins with @, ` or %"
    elif message.startswith("but "):
        message = f"{(error.context or '').strip()}, {message}"
    elif error.context and error.context_mark:
        place += f" {error.context} that begins"
        place += _place(error.context_mark, text, with_libyaml=with_libyaml).replace(" (", " at ").rstrip(")")
    # Everything from the first quotation of the file on is left out, since where it ends depends on what is in it.
    kept = _TOKEN.sub(lambda match: "_" * len(match[0]), message)
    end = re.search("[\"']", kept)
    message = f"{message[: end.start()].rstrip(' ,')} …" if end else message
    return f"not valid YAML: {message}{place}{f'; {advice}' if advice else ''}"


def _place(mark: Mark | None, text: str, *, with_libyaml: bool) -> str:
    if mark is None:
        return ""
    line, column = mark.line + 1, mark.column + 1
    if with_libyaml and mark.index >= len(text) and column == 1 and text and text[-1] not in _LINE_BREAKS:
        # libyaml ends the last line itself, and reports a place in the next, which does not exist.
        last = max(map(text.rfind, _LINE_BREAKS)) + 1
        line, column = line - 1, len(text) - last + 1
    return f" (line {line}, column {column})"


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
            advice = environ.advice(name) if isinstance(environ, Variables) else ""
            node.wrong(f"the environment variable {name} is {'empty' if name in environ else 'not set'}{advice}")
            failed = True
    return None if failed else VARIABLE.sub(lambda match: environ[match[1]], text)


_UNBRACED = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def expand_secret(node: Node, text: str, environ: Mapping[str, str]) -> str | None:
    """Replace the variables in a password or the like, see `expand_variables` and `Variables.for_secrets`."""
    if isinstance(environ, Variables):
        environ = environ.for_secrets(VARIABLE.findall(text))
    return expand_variables(node, text, environ)


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
