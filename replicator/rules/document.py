"""Reader of rules files: the files that are named, their text, and its JSON or YAML as plain values.

YAML is read by version 1.2, except that no scalar turns into a number or a date: ``1.10``, ``0123`` and ``on`` are
tags here. A scalar without quotes is a `Plain`, which code that wants a number can convert. No text makes the reader
build an object, and repeated aliases are bounded.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replicator.errors import ConfigError, Problem
from replicator.rules.node import (
    MAX_DEPTH,
    MAX_VALUES,
    NO_COMMENTS,
    Document,
    Plain,
    is_unicode,
    join,
    json_problem,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_BYTES = 1024 * 1024
"""Size of a rules file, in bytes of UTF-8."""
MAX_FILES = 1000
"""Rules files in a directory."""
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_SCHEMA = ".schema.json"
"""Endings of files beside the rules that are their JSON schema, and no rules."""

_LOOKS_LIKE_JSON = re.compile(r"""\s*[{\[](?:\s|//[^\n]*|/\*.*?\*/|\#[^\n]*)*["}\]]""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RulesFile:
    """A rules file as it was read; ``--auth`` and ``--images`` are one in two parts.

    Attributes:
        name: its name in the directory of rules files; empty if it is the only one.
        texts: the texts by section; under an empty key that of a file with all sections.
        folder: the base of relative paths in it; None for the working directory.
        problems: why it can't be read.
    """

    name: str
    texts: Mapping[str, str] = field(repr=False)
    folder: Path | None = None
    problems: tuple[Problem, ...] = ()


def find_files(
    config: Path | None, *, auth: Path | None = None, images: Path | None = None
) -> tuple[list[RulesFile], str]:
    """Read the texts of the files that `load` takes; return them and their name for errors.

    Raises:
        ConfigError: the arguments don't go together, or what they name can't be read. A file of a directory that can't
            be read is among its `problems`.
    """
    if config is not None:
        if auth is not None or images is not None:
            message = "give one rules file (--config) or two files (--auth and --images), not both"
            raise ConfigError("command line", [Problem("", message)])
        return read_files(config), str(config)
    if images is None:
        message = "no rules: give a rules file (--config), or two files (--auth and --images)"
        raise ConfigError("command line", [Problem("", message)])
    paths = {"auth": auth, "images": images}
    texts = {section: read_text(path) for section, path in paths.items() if path is not None}
    folder = (auth or images).parent
    return [RulesFile("", texts, folder)], " and ".join(str(path) for path in paths.values() if path)


def read_files(path: Path) -> list[RulesFile]:
    """Read a rules file, or those of a directory in the order of their names.

    A directory's files are those that end in ``.json``, ``.yaml`` or ``.yml``. Hidden ones are left out, which those
    are that Kubernetes keeps in the directory of a mounted ConfigMap (``..data``), and so are directories in it.

    Raises:
        ConfigError: the file or the directory can't be read, or has no rules file.
    """
    if not path.is_dir():
        return [RulesFile("", {"": read_text(path)}, path.parent)]
    try:
        names = sorted(each.name for each in path.iterdir() if _is_named_as_rules(each.name) and not each.is_dir())
    except OSError as error:
        raise ConfigError(str(path), [Problem("", f"it can't be read: {error.strerror or error}")]) from None
    if not names:
        message = "no rules file is in this directory: name it *.yaml, *.yml or *.json"
        raise ConfigError(str(path), [Problem("", message)])
    if len(names) > MAX_FILES:
        raise ConfigError(str(path), [Problem("", f"more than {MAX_FILES} rules files, the limit for a directory")])
    return [_read_file(path, name) for name in names]


def _is_named_as_rules(name: str) -> bool:
    _, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}" in _SUFFIXES and not name.startswith(".") and not name.endswith(_SCHEMA)


def _read_file(folder: Path, name: str) -> RulesFile:
    path = folder / name
    if path.exists() and not path.is_file():
        # Opening a named pipe would wait for its writer.
        return RulesFile(name, {}, folder, (Problem("", "is not a regular file"),))
    try:
        return RulesFile(name, {"": read_text(path)}, folder)
    except ConfigError as error:
        return RulesFile(name, {}, folder, error.problems)


def read_text(path: Path) -> str:
    """Read one file.

    Raises:
        ConfigError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells that a file is too large without reading all of it.
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "this is a directory; give a file in it"
    except PermissionError:
        problem = "permission denied; check its owner and mode"
    except (OSError, ValueError) as error:
        problem = f"it can't be read: {error}"
    else:
        if len(data) > MAX_BYTES:
            raise ConfigError(
                str(path), [Problem("", f"larger than {MAX_BYTES // 1024} KiB, the limit for a rules file")]
            )
        if b"\0" in data[:4] or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(str(path), [Problem("", "it is UTF-16 or UTF-32; save it as UTF-8")])
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8-sig")
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            problem = f"it is not UTF-8 (line {line}, column {column}); save it as UTF-8"
    raise ConfigError(str(path), [Problem("", problem)])


def read_document(text: str, path: str = "") -> Document:
    """Read JSON or YAML; the content decides which.

    Args:
        text: the content of a file.
        path: the path of its top level, a prefix for the paths of problems.
    """
    text = text.removeprefix("\ufeff")
    if len(text.encode(errors="replace")) > MAX_BYTES:
        return unreadable(path, f"the file is larger than {MAX_BYTES // 1024} KiB, the limit for a rules file")
    opening = text.lstrip()[:1]
    failure = None
    if opening in {"{", "["}:
        try:
            return _read_json(text, path)
        except _Duplicates as duplicate:
            failure = f"duplicate key {join('', str(duplicate))} in one object"
        except json.JSONDecodeError as error:
            failure = json_problem(error)
        except RecursionError:
            return unreadable(path, f"nested more than {MAX_DEPTH} levels deep")
    # Imported here: PyYAML takes a twentieth of a small command, and rules in JSON do without it.
    from replicator.rules.yaml_text import read_yaml

    document = read_yaml(text, path)
    # YAML takes a comment of JavaScript as a part of a key, so it counts as a mistake even in a text that is YAML.
    if failure and _LOOKS_LIKE_JSON.match(text) and (not document.readable or failure.endswith(NO_COMMENTS)):
        return unreadable(path, failure)
    return document


class _Duplicates(Exception):
    """A JSON object has a duplicate key. Only the YAML reader can tell the line."""


def _read_json(text: str, path: str) -> Document:
    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            raise _Duplicates(next(key for key in keys if keys.count(key) > 1))
        return values

    value = json.loads(text, object_pairs_hook=to_object, parse_int=Plain, parse_float=Plain, parse_constant=Plain)
    for count, (depth, scalar) in enumerate(_walk(value), start=1):
        if depth > MAX_DEPTH:
            return unreadable(path, f"nested more than {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            return unreadable(path, f"more than {MAX_VALUES} values, the limit for a rules file")
        if isinstance(scalar, str) and not is_unicode(scalar):
            return unreadable(path, "a string contains an unpaired surrogate (\\ud800 to \\udfff)")
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
