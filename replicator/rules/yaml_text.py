"""YAML as plain values: each scalar is a text that other code may turn into a number; see `read_document`."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from replicator.errors import Problem
from replicator.rules.node import MAX_DEPTH, MAX_VALUES, Document, Plain, is_unicode, join, unreadable, yaml_problem

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_TAGS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_WITH_LIBYAML = hasattr(yaml, "CSafeLoader")


class _Refused(Exception):
    """The text is valid YAML of a kind that rules don't allow."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen when it is imported
    """Leaves every scalar a string. It is libyaml's loader, six times as fast, if PyYAML was built with it."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # PyYAML's way to switch scalar types off


def read_yaml(text: str, path: str) -> Document:
    """Read a text as YAML.

    Args:
        text: the content of a file.
        path: the path of its top level, a prefix for the paths of problems.
    """
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return unreadable(path, "the file is empty")
        builder = _Builder()
        value = builder.build(node, path)
    except yaml.MarkedYAMLError as error:
        return unreadable(path, yaml_problem(error, text, with_libyaml=_WITH_LIBYAML))
    except yaml.reader.ReaderError as error:
        # libyaml counts bytes, PyYAML characters.
        before = text.encode()[: error.position].decode() if _WITH_LIBYAML else text[: error.position]
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        return unreadable(path, f"the file contains a control character (line {line}, column {column})")
    except _Refused as error:
        return unreadable(path, str(error))
    except (ValueError, OverflowError):
        # PyYAML does not catch these itself, e.g. for the escape "\UFFFFFFFF" without libyaml.
        return unreadable(path, "not valid YAML: an invalid escape or %YAML directive")
    return Document(value, tuple(builder.problems))


def _check_depth(text: str) -> None:
    """Check the nesting before nodes are composed, which recurses in C, where no limit stops it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep")


class _Builder:
    """Builds values from YAML nodes, and notes every duplicate key."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._values = 0
        self._open: set[int] = set()
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: str) -> Any:
        """Return the value of ``node``."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Refused(f"more than {MAX_VALUES} values, the limit for a rules file")
        if len(self._open) > MAX_DEPTH:
            raise _Refused(f"nested more than {MAX_DEPTH} levels deep")
        if node.tag not in _TAGS:
            raise _Refused(f"YAML tags (!) are not supported; quote a string that begins with !{_where(node)}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise _Refused(f"an alias (*) is nested in its own anchor{_where(node)}")
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
        if not is_unicode(text):
            raise _Refused(f"a string contains an unpaired surrogate{_where(node)}")
        if node.style:
            return text
        if text in _NULLS:
            return None
        return _BOOLEANS.get(text, Plain(text))

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused(f"a key must be a string{_where(key_node)}")
            key = str(key_node.value)
            if not is_unicode(key):
                raise _Refused(f"a key contains an unpaired surrogate{_where(key_node)}")
            if key != key.strip() and not key_node.style:
                # YAML itself drops ordinary spaces.
                what = "a key begins or ends with a no-break space, or another special one"
                raise _Refused(f"{what}{_where(key_node)}; write an ordinary space")
            if key == "<<" and not key_node.style:
                merged = {**self._merged(value_node, path), **merged}
                continue
            value = self.build(value_node, join(path, key))
            # A mapping is built again for each alias; its duplicate keys are reported once.
            if key in own and id(node) not in self._seen:
                message = f"duplicate key{_where(key_node)}; remove one"
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
