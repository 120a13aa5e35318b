"""Text of a rules file, JSON or YAML, to plain values.

YAML is read as its version 1.2 has it, and more careful still: no scalar turns into a number or a date, because
``1.10``, ``0123`` and ``on`` are tags here. A scalar without quotes is a `Plain`; who wants a number asks for one.
Nothing in the text can make the reader build an object, and aliases can't multiply without bound.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from replicator.errors import Problem
from replicator.rules.node import join

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1024 * 1024
"""Size of a rules file, in bytes of UTF-8."""
MAX_VALUES = 100_000
"""Values in a file, those an alias repeats counted each time."""
MAX_DEPTH = 32
"""Levels of nesting in a file; the rules need six."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TAGS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_QUOTED = re.compile(r"""'(?!<)[^']{2,}'|"(?!<)[^"]{2,}\"""")


class Plain(str):
    """A scalar written without quotes that is neither null nor true or false."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Document:
    """What a text holds.

    Attributes:
        value: dictionaries, lists, strings, `Plain`, booleans and None; None also when the text can't be read.
        problems: what is wrong with the text itself.
        readable: whether `value` is what the text says, duplicate keys aside.
    """

    value: Any
    problems: tuple[Problem, ...] = ()
    readable: bool = True


def read_document(text: str, path: str = "") -> Document:
    """Read JSON or YAML, whichever ``text`` is.

    Args:
        text: the content of a file.
        path: where its top level stands, for the paths of problems.
    """
    text = text.removeprefix("\ufeff")
    if len(text.encode(errors="replace")) > MAX_BYTES:
        return _unreadable(path, f"the file is larger than {MAX_BYTES // 1024} KiB, which no rules file needs")
    opening = text.lstrip()[:1]
    failure = None
    if opening in {"{", "["}:
        try:
            return _read_json(text, path)
        except _Duplicates as duplicate:
            failure = f"the key {duplicate} stands twice in one object"
        except json.JSONDecodeError as error:
            failure = f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        except RecursionError:
            return _unreadable(path, f"nested more than {MAX_DEPTH} levels deep")
    document = _read_yaml(text, path)
    if failure is not None and not document.readable and re.match(r'\s*[{\[]\s*["}\]]', text):
        return _unreadable(path, failure)
    return document


def _unreadable(path: str, message: str) -> Document:
    return Document(None, (Problem(path, message),), readable=False)


class _Duplicates(Exception):
    """A JSON object has a key twice; where, only the YAML reader can say."""


class _Refused(Exception):
    """The text is well-formed, but nothing to build values from."""


def _read_json(text: str, path: str) -> Document:
    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            raise _Duplicates(json.dumps(next(key for key in keys if keys.count(key) > 1)))
        return values

    value = json.loads(text, object_pairs_hook=to_object, parse_int=Plain, parse_float=Plain, parse_constant=Plain)
    for count, (depth, scalar) in enumerate(_walk(value), start=1):
        if depth > MAX_DEPTH:
            return _unreadable(path, f"nested more than {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            return _unreadable(path, f"more than {MAX_VALUES} values, which no rules file needs")
        if isinstance(scalar, str) and not _is_unicode(scalar):
            return _unreadable(path, "a text holds half a surrogate pair (\\ud800 to \\udfff), which is no character")
    return Document(value)


def _walk(value: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    yield depth, value
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield depth, key
            yield from _walk(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, depth + 1)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Loader(yaml.SafeLoader):
    """Composes nodes only, leaves every scalar a string, and stops at `MAX_DEPTH`."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to switch scalar types off, on the class
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _read_yaml(text: str, path: str) -> Document:
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return _unreadable(path, "the file is empty")
        builder = _Builder()
        value = builder.build(node, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return _unreadable(path, f"not valid YAML: {_without_values(error.problem or 'it breaks off')}{where}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        return _unreadable(path, f"a control character stands in the text (line {line}, column {column})")
    except _Refused as error:
        return _unreadable(path, str(error))
    except (ValueError, OverflowError):
        # PyYAML lets these out for escapes such as "\UFFFFFFFF" and for version numbers that are none.
        return _unreadable(path, "not valid YAML: an escape or a %YAML line that means nothing")
    return Document(value, tuple(builder.problems))


def _without_values(message: str) -> str:
    # PyYAML quotes what it stumbles over, and a password that starts with * or & would be quoted too.
    if "alias" in message or "anchor" in message:
        return "an alias (*) without its anchor (&); a text that begins with one of them needs quotes"
    return _QUOTED.sub("a text", message)


class _Builder:
    """Values from nodes, with every duplicate key noted."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._values = 0
        self._open: set[int] = set()
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: str) -> Any:
        """Return the value of ``node``."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES} values, which no rules file needs")
        if len(self._open) > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep")
        if node.tag not in _TAGS:
            raise _Refused(f"a tag (!) is not understood here; a text that begins with ! needs quotes{_where(node)}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise _Refused(f"an alias (*) stands inside of what it repeats{_where(node)}")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self.build(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        finally:
            self._open.remove(id(node))
            self._seen.add(id(node))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if not _is_unicode(text):
            raise _Refused(f"a text holds half a surrogate pair, which is no character{_where(node)}")
        if node.style is not None:
            return text
        if text in _NULLS:
            return None
        return _BOOLEANS.get(text, Plain(text))

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused(f"a key must be a text{_where(key_node)}")
            key = str(key_node.value)
            if not _is_unicode(key):
                raise _Refused(f"a key holds half a surrogate pair, which is no character{_where(key_node)}")
            if key == "<<" and key_node.style is None:
                merged = {**self._merged(value_node, path), **merged}
                continue
            value = self.build(value_node, join(path, key))
            if key in own and id(node) not in self._seen:
                message = f"the key stands a second time{_where(key_node)}; remove one"
                self.problems.append(Problem(join(path, key), message))
            own.setdefault(key, value)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: str) -> dict[str, Any]:
        values = self.build(node, join(path, "<<"))
        merged: dict[str, Any] = {}
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, dict):
                raise _Refused(f"<< takes a mapping or a list of mappings{_where(node)}")
            merged = {**value, **merged}
        return merged


def _where(node: yaml.Node) -> str:
    mark = node.start_mark
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
